"""Make folders of recorded runs again: python -m experiments.restore NAME [NAME ...] [--output DIR]

A run's folder is DIR/EXPERIMENT/NAME and holds what was kept of it: results, curves, log, records and what was typed.
Its configuration is the name of its row alone, by which `lipcert.report` groups seeds; its commit has the rest.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from experiments.runs import Run, read, to_csv
from lipcert.system.files import write_text


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line; argparse exits with code 2 where it does not fit."""
    parser = argparse.ArgumentParser(prog="python -m experiments.restore", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", help="a run, or an experiment for all its runs")
    parser.add_argument("--output", type=Path, default=Path("recorded"), help="folder (default: recorded)")
    return parser.parse_args(words)


def chosen(runs: Sequence[Run], names: Sequence[str]) -> list[Run]:
    """Return the runs that are named, and those of an experiment that is.

    Raises:
        ValueError: for a name that is neither.
    """
    for name in names:
        if not any(name in (run.name, run.experiment) for run in runs):
            raise ValueError(f"Expected a run or an experiment of experiments/runs.jsonl, got {name}.")
    return [run for run in runs if run.name in names or run.experiment in names]


def restore(run: Run, output: Path) -> Path:
    """Write the folder of a run, and return it."""
    folder = output / run.name
    files = {
        ".hydra/overrides.yaml": yaml.safe_dump(list(run.overrides)),
        ".hydra/config.yaml": yaml.safe_dump({"row": run.row}),
        "results.json": json.dumps(run.results, indent=2) + "\n",
        "metrics.csv": to_csv(run.metrics),
        "train.log": "".join(f"{line}\n" for line in run.log),
    }
    files |= {f"{name}/certificate.json": json.dumps(each, indent=2) + "\n" for name, each in run.records.items()}
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_text(folder / name, text)
    return folder


def main(words: Sequence[str] | None = None) -> None:
    """Write the folders, and say what made each run."""
    options = arguments(words)
    try:
        runs = chosen(read(), options.names)
    except ValueError as error:
        sys.exit(f"error: {error}")
    for run in runs:
        sys.stdout.write(f"{restore(run, options.output)}: at commit {run.commit}, {run.command}\n")


if __name__ == "__main__":
    main()
