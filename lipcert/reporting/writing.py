"""Writes a report: `report.html`, and every picture as PNG beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lipcert.reporting.figures.palette import DARK, LIGHT, Palette
from lipcert.reporting.figures.picture import Picture, as_png
from lipcert.reporting.page import Report, build, render
from lipcert.reporting.pictures import slug
from lipcert.reporting.reading import read_runs
from lipcert.system.files import write_bytes, write_text

PAGE_NAME = "report.html"
FIGURES = "figures"

THEMES: dict[str, tuple[Palette, ...]] = {"both": (LIGHT, DARK), "light": (LIGHT,), "dark": (DARK,), "none": ()}
"""Which PNGs are written."""


def write_report(
    paths: Sequence[Path],
    output: Path,
    themes: str = "both",
    command: str = "python -m lipcert.report",
    advance: Callable[[int, int], object] = lambda done, total: None,
) -> Report:
    """Write the report of some runs into a folder, and return what it shows.

    Args:
        paths: folders of runs, or folders with runs directly inside.
        output: made where it is missing; files of an earlier report are replaced.
        themes: a key of `THEMES`.
        command: named on the page.
        advance: told how many pictures are done, of how many.

    Raises:
        ValueError: where there is nothing to show; nothing is written then.
        OSError: if `output` cannot be written.
    """
    report = build(read_runs(paths))
    if report.is_empty:
        reasons = " ".join(sentence for _, sentence in report.problems)
        raise ValueError(f"There is nothing to report on. {reasons}".strip())
    output.mkdir(parents=True, exist_ok=True)
    pictures = [(path, picture, palette) for path, picture in named_pictures(report) for palette in THEMES[themes]]
    for number, (path, picture, palette) in enumerate(pictures):
        advance(number, len(pictures))
        target = output / FIGURES / path.with_name(f"{path.name}{'' if palette is LIGHT else '-dark'}.png")
        target.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(target, as_png(picture, palette))
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
