"""One run as the page shows it: tiles, pictures, tables, extreme images."""

import base64
import shlex
from dataclasses import dataclass
from functools import cached_property

from lipcert.records.measurement import THUMBNAILS, ImageRow
from lipcert.reporting.figures.measured import confusions, convergence, curves, margins, radii
from lipcert.reporting.figures.picture import Absent, Picture
from lipcert.reporting.figures.training import training_pictures
from lipcert.reporting.runs import Run
from lipcert.reporting.tables import ABSENT, Table, percent, short
from lipcert.system.overrides import quoted


@dataclass(frozen=True)
class Shown:
    """One run as the page shows it; `anchor` is its id there, `different` its settings that not all runs share."""

    run: Run
    anchor: str
    different: tuple[str, ...] = ()

    @cached_property
    def pictures(self) -> list[Picture | Absent]:
        """Its pictures in the order of the page, and what stands where one cannot be drawn."""
        run, measured = self.run, self.run.measurement
        found = training_pictures(run.metrics) if run.metrics or run.results else []
        if measured is not None:
            found += [curves(measured), radii(measured), margins(measured)]
            return [*found, *confusions(measured), convergence(measured)]
        title = "Curves against ε, radii, margins, power iterations, confusion"
        words = [shlex.quote(f"{key}={quoted(value)}") for key, value in run.measure_settings.items()]
        if words:
            command = " ".join(["python -m lipcert.measure", *words])
            found.append(Absent(title, "Not measured yet. This command does:", command))
        elif found:
            found.append(Absent(title, "Not measured, and the run's folder has no checkpoint to measure."))
        return found

    @property
    def subtitle(self) -> str:
        """What the run is, in one line."""
        words = [word for key in ("data", "model", "activation", "method") if (word := self.run.word(key)) != "?"]
        if self.run.word("bound") != "?":
            words.append(f"{self.run.word('bound')} bound")
        if (epsilon := self.run.number("epsilon")) is not None:
            words.append(f"ε = {short(epsilon)}")
        if self.run.word("seed") != "?":
            words.append(f"seed {self.run.word('seed')}")
        words += self.different
        return " · ".join(words)

    @property
    def tiles(self) -> list[tuple[str, str, str, str]]:
        """The numbers that stand large, those there are: key in `results.json`, name, text, unit."""
        kinds = (
            ("clean_accuracy", "clean", percent, "%"),
            ("pgd_accuracy", "under PGD", percent, "%"),
            ("certified_accuracy", f"certified, {self.run.word('bound')}", percent, "%"),
            ("global_lipschitz", "L global", short, ""),
            ("local_lipschitz_mean", "L local, mean", short, ""),
            ("failure_probability", "failure probability", lambda value: f"{value:.1e}" if value else "0", ""),
        )
        found = ((key, name, self.run.number(key), text, unit) for key, name, text, unit in kinds)
        return [(key, name, text(number), unit) for key, name, number, text, unit in found if number is not None]

    @property
    def certificates(self) -> Table | None:
        """The totals of the run's records."""
        heads = ("record", "ε", "images", "clean %", "certified %", "failure probability")
        rows = tuple(
            (
                *(folder, short(each.epsilon), str(each.num_images)),
                *map(percent, (each.clean_accuracy, each.certified_accuracy)),
                f"{record.contents.failure_probability.total:.1e}",
            )
            for folder, record in self.run.certificates.items()
            for each in record.totals
        )
        return Table("Certificates", "Totals of the records in the run's folder.", heads, rows, 1) if rows else None

    @property
    def tables(self) -> list[Table]:
        """All results, and the curves against epsilon."""
        found = []
        if self.run.results:
            results = tuple((key, _plain(value)) for key, value in self.run.results.items())
            found.append(Table("results.json", "Everything the run says of itself.", ("key", "value"), results, 2))
        if (measured := self.run.measurement) is not None:
            heads = ("ε", "PGD %", *(f"{bound} %" for bound in measured.header.bounds))
            rows = tuple((short(row.epsilon), *map(percent, (row.pgd, *row.certified))) for row in measured.curves)
            found.append(Table("Certified accuracy against ε", "The curves above.", heads, rows, 0))
        return found

    @property
    def extremes(self) -> dict[str, list[tuple[ImageRow, str]]]:
        """The kept images with the smallest and with the largest certified radius, each with its data address."""
        if self.run.measurement is None:
            return {}
        folder, kept = self.run.measurement.folder / THUMBNAILS, set(self.run.measurement.header.thumbnails)
        files = [(row, folder / f"{row.index}.png") for row in self.run.measurement.images if row.index in kept]
        files.sort(key=lambda pair: pair[0].radii[-1])
        encoded = ((row, base64.b64encode(path.read_bytes()).decode()) for row, path in files if path.is_file())
        found = [(row, f"data:image/png;base64,{content}") for row, content in encoded]
        half = (len(found) + 1) // 2
        return {"smallest": found[:half], "largest": found[half:][::-1]}


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_plain(each)}" for key, each in value.items())
    if value is None:
        return ABSENT
    return f"{value:.6g}" if isinstance(value, float) else str(value)
