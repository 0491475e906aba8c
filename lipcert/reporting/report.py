"""A report of runs, all of it from files that they left: `report.html`, and every picture as PNG beside it."""

import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from rich.console import Console
from rich.progress import track

from lipcert.reporting.figures.comparison import comparison_pictures
from lipcert.reporting.figures.picture import DARK, LIGHT, Palette, Picture, as_png, as_svg
from lipcert.reporting.groups import by_data_set, differences, filled, group_runs
from lipcert.reporting.reading import read_runs
from lipcert.reporting.runs import Run, State
from lipcert.reporting.shown import Shown
from lipcert.reporting.tables import Table, short, tables
from lipcert.system.files import write_bytes, write_text
from lipcert.version import __version__

PAGE_NAME = "report.html"
FIGURES = "figures"

THEMES: dict[str, tuple[Palette, ...]] = {"both": (LIGHT, DARK), "light": (LIGHT,), "dark": (DARK,), "none": ()}
"""Which PNGs are written."""

OPEN = 4
"""With more runs than this, each is folded until it is asked for."""


@dataclass(frozen=True)
class Report:
    """Everything a page shows: runs, tables and pictures that compare them, and sentences on the comparison."""

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


def slug(name: str) -> str:
    """Return a name as part of a path or an anchor."""
    return re.sub(r"[^A-Za-z0-9._=-]+", "_", name).strip("_.") or "run"


def build(runs: Sequence[Run]) -> Report:
    """Return what a page of these runs shows."""
    runs = filled(runs)
    data_sets = by_data_set(group_runs(runs))
    apart = len(data_sets) > 1
    notes = []
    if apart:
        names = ", ".join(data.name for data in data_sets)
        notes.append(f"The runs are of {len(data_sets)} data sets ({names}); each has tables of its own.")
    for data in data_sets:
        doubled = [name for name, group in data.named_groups if group.doubled]
        if doubled:
            notes.append(f"On {data.name}, a seed stands for several runs of: {', '.join(doubled)}.")
        if "epsilon" in data.columns:
            notes.append(f"On {data.name}, epsilon differs; accuracies at different epsilons do not compare.")
    pictures = [comparison_pictures(data, f"_{slug(data.name)}" if apart else "") for data in data_sets]
    return Report(
        tuple(
            Shown(run, f"run-{number}-{slug(run.name)}", different)
            for number, (run, different) in enumerate(zip(runs, differences(runs), strict=True), start=1)
        ),
        tuple(tables([data for data in data_sets if any(group.runs for group in data.groups)])),
        tuple(picture for each in pictures for picture in each),
        tuple(notes),
    )


def render(report: Report, command: str) -> str:
    """Return the page as HTML that needs no other file; `command` is the one by which it was made."""
    environment = Environment(
        loader=PackageLoader("lipcert.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        report=report,
        svg=lambda picture, anchor: Markup(as_svg(picture, anchor)),
        short=short,
        version=__version__,
        command=command,
        folded=len(report.runs) > OPEN,
    )


def write_report(paths: Sequence[Path], output: Path, themes: str = "both") -> Report:
    """Write the report of runs, in or directly inside some folders, into another, and return what it shows.

    `output` is made where it is missing, an earlier report replaced; `themes`: a key of `THEMES`.

    Raises:
        ValueError: where there is nothing to show; nothing is written then.
    """
    report = build(read_runs(paths))
    if report.is_empty:
        reasons = " ".join(sentence for _, sentence in report.problems)
        raise ValueError(f"There is nothing to report on. {reasons}".strip())
    output.mkdir(parents=True, exist_ok=True)
    pictures = [(path, picture, palette) for path, picture in named_pictures(report) for palette in THEMES[themes]]
    console, hidden = Console(stderr=True), not sys.stderr.isatty()
    for path, picture, palette in track(pictures, "pictures", console=console, transient=True, disable=hidden):
        target = output / FIGURES / f"{path}{'' if palette is LIGHT else '-dark'}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(target, as_png(picture, palette))
    command = shlex.join(["python", "-m", "lipcert.report", *map(str, paths)])
    write_text(output / PAGE_NAME, render(report, command))
    return report


def named_pictures(report: Report) -> Iterator[tuple[Path, Picture]]:
    """Return every picture with its path below `figures`, without ending: KEY over runs, RUN/KEY of one."""
    for picture in report.pictures:
        yield Path(picture.key), picture
    folders: list[str] = []
    for shown in report.runs:
        name = slug(shown.run.name)
        folders.append(f"{name}_{len(folders)}" if name in folders else name)
        for each in shown.pictures:
            if isinstance(each, Picture):
                yield Path(folders[-1]) / each.key, each
