"""`python -m lipcert.report RUN [RUN ...]`: tables and pictures of runs, one HTML page and PNGs."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lipcert.commands.application import ending_in_a_sentence
from lipcert.system.errors import EXPECTED_ERRORS, sentence_of

THEMES = ("both", "light", "dark", "none")


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line; argparse exits with code 2 where it does not fit."""
    parser = argparse.ArgumentParser(
        prog="python -m lipcert.report",
        description="Write one self-contained HTML page about runs, and its pictures as PNG, from the files that the "
        "runs left and nothing else.",
        epilog="Exit code 0: the page is written; what is missing or damaged is listed on it and on standard error. "
        "1: there is nothing to show, or the folder cannot be written; says why.",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run, or of several")
    parser.add_argument("--output", type=Path, default=Path("report"), help="folder of the report (default: report)")
    parser.add_argument("--png", choices=THEMES, default="both", help="which PNGs to write (default: both)")
    parser.add_argument(
        "--measure", action="store_true", help="first run lipcert.measure for every run that has no measurement"
    )
    parser.add_argument("--limit", type=int, default=200, help="images that --measure takes (default: 200)")
    return parser.parse_args(words)


def report(options: argparse.Namespace, say: Callable[[str], object], warn: Callable[[str], object]) -> None:
    """Write the report.

    Args:
        options: of `arguments`.
        say: takes a line for standard output.
        warn: takes a sentence on something that is missing or damaged.

    Raises:
        ValueError: where there is nothing to show.
        OSError: if the folder cannot be written.
    """
    from rich.console import Console
    from rich.progress import Progress

    from lipcert.reporting.writing import PAGE_NAME, write_report

    if options.measure:
        _measure(options.runs, options.limit, warn)
    words = [str(path) for path in options.runs]
    command = shlex.join(["python", "-m", "lipcert.report", *words])
    console = Console(stderr=True)
    with Progress(console=console, disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task("pictures", total=None)
        made = write_report(
            options.runs,
            options.output,
            options.png,
            command,
            lambda done, total: progress.update(task, completed=done, total=total),
        )
    for name, sentence in made.problems:
        warn(f"{name}: {sentence}")
    say(f"The report is in {options.output / PAGE_NAME}")


def _measure(paths: Sequence[Path], limit: int, warn: Callable[[str], object]) -> None:
    """Measure every run that has a checkpoint and no measurement; tell of those that cannot be measured."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from lipcert.jobs.measure import run as measure
    from lipcert.reporting.pictures import measure_settings
    from lipcert.reporting.reading import read_runs
    from lipcert.system.configuration import config_folder, register
    from lipcert.system.job_names import quoted

    register()
    GlobalHydra.instance().clear()
    for each in read_runs(paths):
        settings = measure_settings(each)
        if each.measurement is not None or not settings:
            continue
        with initialize_config_dir(config_folder(), version_base="1.3"):
            config = compose(
                "measure", overrides=[*(f"{key}={quoted(value)}" for key, value in settings.items()), f"limit={limit}"]
            )
        try:
            measure(config)
        except EXPECTED_ERRORS as error:
            warn(f"{each.name} was not measured: {sentence_of(error)}")


def main(words: Sequence[str] | None = None) -> None:
    """Entry point of `lipcert-report`: one sentence on standard error and exit code 1 where there is no page."""

    def warn(sentence: str) -> None:
        sys.stderr.write(f"warning: {sentence}\n")

    with ending_in_a_sentence("Stopped; no report was written."):
        report(arguments(words), lambda line: sys.stdout.write(f"{line}\n"), warn)
