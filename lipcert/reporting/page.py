"""The page: what its template is given, all of it from files that runs left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lipcert.reporting.figures.drawing import Picture
from lipcert.reporting.figures.saving import as_svg
from lipcert.reporting.groups import by_data_set, group_runs
from lipcert.reporting.pictures import pictures_of_comparison, slug
from lipcert.reporting.runs import Run, State
from lipcert.reporting.shown import Shown, show
from lipcert.reporting.tables import Table, tables
from lipcert.version import __version__

OPEN = 4
"""With more runs than this, each is folded until it is asked for."""


@dataclass(frozen=True)
class Report:
    """Everything a page shows.

    Attributes:
        runs: all that were asked for.
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
    return Report(
        tuple(show(run, f"run-{number}-{slug(run.name)}") for number, run in enumerate(runs, start=1)),
        tuple(tables([data for data in data_sets if any(group.runs for group in data.groups)])),
        tuple(pictures_of_comparison(data_sets)),
        tuple(notes),
    )


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
