"""One run as the page shows it: tiles, pictures, tables, extreme images."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from lipcert.records.measurement import Measurement
from lipcert.records.measurement_files import THUMBNAILS
from lipcert.reporting.figures.drawing import Absent, Picture
from lipcert.reporting.pictures import pictures_of_run
from lipcert.reporting.runs import Run, State
from lipcert.reporting.statistics import ABSENT, percent, short
from lipcert.reporting.tables import Table


@dataclass(frozen=True)
class Tile:
    """A number that stands large: its name, its text, and the key of `results.json` it comes from."""

    name: str
    text: str
    unit: str
    key: str


@dataclass(frozen=True)
class Thumbnail:
    """An image of the data set as data address, and what is said of it."""

    address: str
    label: int
    radius: str
    alt: str


@dataclass(frozen=True)
class Shown:
    """One run as the page shows it; `tables` are folded, `about` says what its measurement is of."""

    run: Run
    anchor: str
    subtitle: str
    tiles: tuple[Tile, ...]
    pictures: tuple[Picture | Absent, ...]
    certificates: Table | None
    tables: tuple[Table, ...]
    smallest: tuple[Thumbnail, ...]
    largest: tuple[Thumbnail, ...]
    about: tuple[str, ...]


def show(run: Run, anchor: str) -> Shown:
    """Return what the page shows of a run; `anchor` is its id there."""
    measurement = run.measurement
    smallest, largest = ((), ()) if measurement is None else _extremes(measurement)
    return Shown(
        run,
        anchor,
        _subtitle(run),
        _tiles(run),
        () if run.state is State.NO_RUN else tuple(pictures_of_run(run)),
        _certificates(run),
        _tables(run),
        smallest,
        largest,
        () if measurement is None else _about(measurement),
    )


def _subtitle(run: Run) -> str:
    """Return what a run is, in one line."""
    words = [word for key in ("data", "model", "activation", "method") if (word := run.word(key)) != "?"]
    if run.word("bound") != "?":
        words.append(f"{run.word('bound')} bound")
    if run.number("epsilon") is not None:
        words.append(f"ε = {short(run.number('epsilon'))}")
    if run.word("seed") != "?":
        words.append(f"seed {run.word('seed')}")
    return " · ".join(words)


def _tiles(run: Run) -> tuple[Tile, ...]:
    """Return the numbers that stand large, those there are."""
    bound = run.word("bound")
    accuracies = (
        ("clean", "clean_accuracy"),
        ("under PGD", "pgd_accuracy"),
        (f"certified, {bound}", "certified_accuracy"),
    )
    tiles = [Tile(name, percent(run.number(key)), "%", key) for name, key in accuracies if run.number(key) is not None]
    for name, key in (("L global", "global_lipschitz"), ("L local, mean", "local_lipschitz_mean")):
        if run.number(key) is not None:
            tiles.append(Tile(name, short(run.number(key)), "", key))
    failure = run.number("failure_probability")
    if failure is not None:
        tiles.append(Tile("failure probability", f"{failure:.1e}" if failure else "0", "", "failure_probability"))
    return tuple(tiles)


def _certificates(run: Run) -> Table | None:
    """Return the totals of a run's records."""
    heads = ("record", "ε", "images", "clean %", "certified %", "failure probability")
    lines = tuple(
        (
            each.record,
            short(each.epsilon),
            str(each.images),
            percent(each.clean),
            percent(each.certified),
            f"{each.failure_probability:.1e}",
        )
        for each in run.certificates
    )
    return Table("Certificates", "Totals of the records in the run's folder.", heads, lines, 1) if lines else None


def _tables(run: Run) -> tuple[Table, ...]:
    """Return a run's numbers: all of its results, its curves."""
    found = []
    if run.results:
        rows = tuple((key, _plain(value)) for key, value in run.results.items())
        found.append(Table("results.json", "Everything the run says of itself.", ("key", "value"), rows, 2))
    if run.measurement is not None:
        header = run.measurement.header
        names = ("ε", "PGD %", *(f"{bound} %" for bound in header.bounds))
        points = tuple(
            (short(row.epsilon), percent(row.pgd), *map(percent, row.certified)) for row in run.measurement.curves
        )
        found.append(Table("Certified accuracy against ε", "The curves above.", names, points, 0))
    return tuple(found)


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_plain(each)}" for key, each in value.items())
    if value is None:
        return ABSENT
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _about(measurement: Measurement) -> tuple[str, ...]:
    """Return sentences on a measurement: what it is of, and how certain it is."""
    header = measurement.header
    attack = header.attack
    return (
        f"Measured on the first {header.data.num_images} {header.data.split} images of {header.data.name} "
        f"with {header.checkpoint}, SHA-256 of the network {header.model.sha256[:16]}..., "
        f"ε = {header.epsilon:.6g}.",
        f"All certified radii hold together {header.failure_probability.certainty}. {header.arithmetic}",
        f"PGD: {attack.steps} steps, {attack.restarts} random start(s), at {len(header.radii)} radii.",
        "results.json counts all test images and, as the literature does, the exact network.",
    )


def _extremes(measurement: Measurement) -> tuple[tuple[Thumbnail, ...], tuple[Thumbnail, ...]]:
    """Return the kept images with the smallest and with the largest certified radius."""
    rows = {row.index: row for row in measurement.images}
    kept = sorted(
        (rows[index] for index in measurement.header.thumbnails if index in rows),
        key=lambda row: row.radii[measurement.tightest],
    )
    half = (len(kept) + 1) // 2
    shown = []
    for row in kept:
        path = measurement.folder / THUMBNAILS / f"{row.index}.png"
        if not path.is_file():
            continue
        radius = row.radii[measurement.tightest]
        address = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
        alt = f"image {row.index}, label {row.label}, certified radius {short(radius)}"
        shown.append(Thumbnail(address, row.label, short(radius), alt))
    return tuple(shown[:half]), tuple(reversed(shown[half:]))
