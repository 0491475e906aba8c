"""`python -m lipcert.report RUN [RUN ...]`: tables and pictures of runs, one HTML page and PNGs."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lipcert.commands.application import ending_in_a_sentence
from lipcert.system.errors import EXPECTED_ERRORS, sentence_of
from lipcert.version import __version__

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
    parser.add_argument("--output", type=Path, help="folder of the report (default: RUN; report, for several)")
    parser.add_argument("--png", choices=THEMES, default="both", help="which PNGs to write (default: both)")
    parser.add_argument(
        "--measure", action="store_true", help="first run lipcert.measure for every run that has no measurement"
    )
    parser.add_argument("--limit", type=int, default=200, help="images that --measure takes (default: 200)")
    parser.add_argument("--version", action="version", version=f"lipcert {__version__}")
    return parser.parse_args(words)


def report(options: argparse.Namespace) -> None:
    """Write the report; warn of what is missing or damaged on standard error."""
    from lipcert.reporting.report import PAGE_NAME, write_report

    output = options.output or (options.runs[0] if len(options.runs) == 1 else Path("report"))
    if options.measure:
        _measure(options.runs, options.limit)
    for name, sentence in write_report(options.runs, output, options.png).problems:
        _warn(f"{name}: {sentence}")
    sys.stdout.write(f"The report is in {output / PAGE_NAME}\n")


def _warn(sentence: str) -> None:
    sys.stderr.write(f"warning: {sentence}\n")


def _measure(paths: Sequence[Path], limit: int) -> None:
    """Measure every run that has a checkpoint and no measurement; tell of those that cannot be measured."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from lipcert.jobs.measure import run as measure
    from lipcert.reporting.reading import read_runs
    from lipcert.system.configuration import config_folder, register
    from lipcert.system.overrides import quoted

    register()
    GlobalHydra.instance().clear()
    for each in read_runs(paths):
        if each.measurement is not None or not each.measure_settings:
            continue
        settings = {**each.measure_settings, "limit": str(limit)}
        with initialize_config_dir(config_folder(), version_base="1.3"):
            config = compose("measure", overrides=[f"{key}={quoted(value)}" for key, value in settings.items()])
        try:
            measure(config)
        except EXPECTED_ERRORS as error:
            _warn(f"{each.name} was not measured: {sentence_of(error)}")


def main(words: Sequence[str] | None = None) -> None:
    """Entry point of `lipcert-report`: one sentence on standard error and exit code 1 where there is no page."""
    with ending_in_a_sentence("Stopped; no report was written."):
        report(arguments(words))
