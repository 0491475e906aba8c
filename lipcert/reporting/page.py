"""The page: what its template is given, all of it from files that runs left."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lipcert.reporting.figures.drawing import Absent, Picture, as_svg
from lipcert.reporting.groups import by_data_set, group_runs
from lipcert.reporting.measurements import THUMBNAILS, Measurement
from lipcert.reporting.pictures import pictures_of_comparison, pictures_of_run, slug
from lipcert.reporting.runs import Run, State
from lipcert.reporting.statistics import ABSENT, percent, short
from lipcert.reporting.tables import Table, tables
from lipcert.version import __version__

OPEN = 4
"""With more runs than this, each is folded until it is asked for."""


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
    """One run as the page shows it."""

    run: Run
    anchor: str
    subtitle: str
    tiles: tuple[Tile, ...]
    pictures: tuple[Picture | Absent, ...]
    tables: tuple[Table, ...]
    smallest: tuple[Thumbnail, ...]
    largest: tuple[Thumbnail, ...]
    about: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """Everything a page shows.

    Attributes:
        runs: all that were asked for, those of which nothing is left aside in `Shown.pictures`.
        tables, pictures: over runs.
        notes: sentences on the comparison.
    """

    runs: tuple[Shown, ...]
    tables: tuple[Table, ...]
    pictures: tuple[Picture, ...]
    notes: tuple[str, ...]

    @property
    def problems(self) -> list[tuple[str, str]]:
        """Return (run, sentence) for everything that is missing or damaged."""
        return [(shown.run.name, sentence) for shown in self.runs for sentence in shown.run.problems]

    @property
    def title(self) -> str:
        """What the page is about: the run, or how many runs."""
        return self.runs[0].run.name if len(self.runs) == 1 else f"{len(self.runs)} runs"

    @property
    def summary(self) -> str:
        """How many runs there are and how far they came, or what the only one is."""
        if len(self.runs) == 1:
            return self.runs[0].subtitle
        states = [shown.run.state for shown in self.runs]
        counted = ", ".join(f"{states.count(state)} {state}" for state in State if state in states)
        data = dict.fromkeys(shown.run.word("data") for shown in self.runs if shown.run.word("data") != "?")
        return f"{counted}. Data: {', '.join(data) or 'none'}."

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show but sentences."""
        return all(shown.run.is_empty for shown in self.runs)


def build(runs: Sequence[Run]) -> Report:
    """Return what a page of these runs shows."""
    groups = group_runs(runs)
    data_sets = by_data_set(groups)
    notes = []
    if len(data_sets) > 1:
        names = ", ".join(data.name for data in data_sets)
        notes.append(f"The runs are of {len(data_sets)} data sets ({names}); each has tables of its own.")
    for data in data_sets:
        doubled = [name for name, group in zip(data.names, data.groups, strict=True) if group.doubled]
        if doubled:
            notes.append(f"On {data.name}, a seed stands for several runs of: {', '.join(doubled)}.")
        if "epsilon" in data.columns:
            notes.append(f"On {data.name}, epsilon differs; accuracies at different epsilons do not compare.")
    anchors: list[str] = []
    for run in runs:
        anchors.append(f"run-{len(anchors) + 1}-{slug(run.name)}")
    return Report(
        tuple(_shown(run, anchor) for run, anchor in zip(runs, anchors, strict=True)),
        tuple(tables([data for data in data_sets if any(group.runs for group in data.groups)])),
        tuple(pictures_of_comparison(data_sets)),
        tuple(notes),
    )


def _shown(run: Run, anchor: str) -> Shown:
    measurement = run.measurement
    smallest, largest = ((), ()) if measurement is None else _extremes(measurement)
    words = [run.word(key) for key in ("data", "model", "activation", "method")]
    bound, seed = run.word("bound"), run.word("seed")
    subtitle = " · ".join([*(word for word in words if word != "?")])
    if bound != "?":
        subtitle += f" · {bound} bound"
    if run.number("epsilon") is not None:
        subtitle += f" · ε = {short(run.number('epsilon'))}"
    if seed != "?":
        subtitle += f" · seed {seed}"
    return Shown(
        run,
        anchor,
        subtitle,
        _tiles(run),
        () if run.state is State.NO_RUN else tuple(pictures_of_run(run)),
        _tables(run),
        smallest,
        largest,
        () if measurement is None else _about(measurement),
    )


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


def _tables(run: Run) -> tuple[Table, ...]:
    """Return a run's numbers: all of its results, its certificates, its curves."""
    found = []
    if run.results:
        rows = tuple((key, _plain(value)) for key, value in run.results.items())
        found.append(Table("results.json", "Everything the run says of itself.", ("key", "value"), rows, 2))
    if run.certificates:
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
        found.append(Table("Certificates", "Totals of the records in the run's folder.", heads, lines, 1))
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
    failure = header.failure_probability
    certainty = (
        f"with probability at least 1 - {float(failure['total']):.1e} ({failure['norms']} norms that may fail)"
        if failure["norms"]
        else "for certain"
    )
    attack = header.attack
    return (
        f"Measured on the first {header.data['num_images']} {header.data['split']} images of {header.data['name']} "
        f"with {header.checkpoint}, SHA-256 of the network {str(header.model['sha256'])[:16]}..., "
        f"ε = {header.epsilon:.6g}.",
        f"All certified radii hold together {certainty}. {header.arithmetic}",
        f"PGD: {attack['steps']} steps, {attack['restarts']} random start(s), at {len(header.radii)} radii.",
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


def render(report: Report, command: str) -> str:
    """Return the page as HTML that needs no other file.

    Args:
        report: what it shows.
        command: by which it was made.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("lipcert.reporting"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.lstrip_blocks = True
    style, _, _ = environment.loader.get_source(environment, "style.css")  # type: ignore[union-attr]

    def svg(picture: Picture, anchor: str = "all") -> Markup:
        return Markup(as_svg(replace(picture, key=f"{anchor}-{picture.key}")))

    return environment.get_template("report.html").render(
        report=report,
        style=Markup(style),
        svg=svg,
        is_picture=lambda each: isinstance(each, Picture),
        version=__version__,
        command=command,
        folded=len(report.runs) > OPEN,
    )
