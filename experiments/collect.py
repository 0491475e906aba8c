"""Take finished runs into the table of runs: python -m experiments.collect EXPERIMENT RUN [RUN ...] --commit COMMIT

Checkpoints and configurations stay where they are. A run of `experiment=FOLDER/ROW` becomes EXPERIMENT/ROW_seedN; any
other is named after its network (where there are several), activation (unless clipped ReLU), method, bound, sparsity
and seed. A run taken in before is replaced. Then `python -m experiments.pages` writes the tables of the pages anew.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from experiments.runs import HERE, Run, read, write


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line; argparse exits with code 2 where it does not fit."""
    parser = argparse.ArgumentParser(prog="python -m experiments.collect", description=__doc__)
    parser.add_argument("experiment", metavar="EXPERIMENT", help="such as table6, or comparison/timing")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run, or of several")
    parser.add_argument("--commit", required=True, help="of lipcert, that made the runs")
    parser.add_argument("--name", help="of a single run, in place of the one that its settings give")
    return parser.parse_args(words)


def collected(folders: Sequence[Path], experiment: str, commit: str, name: str | None = None) -> list[Run]:
    """Return the finished runs at or directly inside some folders, named.

    Raises:
        ValueError: if there is none, or several for one name.
    """
    found = [
        path.parent for folder in folders for path in (*folder.glob("results.json"), *folder.glob("*/results.json"))
    ]
    if not found or (name and len(found) > 1):
        expected = "one finished run" if name else "finished runs"
        raise ValueError(
            f"Expected {expected}, got {len(found)} results.json at or inside {', '.join(map(str, folders))}."
        )
    runs = [of_folder(folder, commit) for folder in found]
    several = len({run.results["model"] for run in runs}) > 1
    return [replace(run, name=f"{experiment}/{name or name_of(run, several)}") for run in runs]


def of_folder(folder: Path, commit: str) -> Run:
    """Return what is kept of a run, without a name."""
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
        metrics = tuple(csv.DictReader(file))
    overrides = yaml.safe_load((folder / ".hydra" / "overrides.yaml").read_text(encoding="utf-8"))
    log = (folder / "train.log").read_text(encoding="utf-8").splitlines()
    records = {path.parent.name: _json(path) for path in sorted(folder.glob("*/certificate.json"))}
    return Run("", commit, tuple(overrides), _json(folder / "results.json"), metrics, tuple(log), records)


def name_of(run: Run, several: bool) -> str:
    """Return a run's name within its experiment.

    Args:
        run: with any name.
        several: whether its experiment has several networks.
    """
    results, weight = run.results, run.typed("sparsity.weight")
    _, _, row = (run.typed("experiment") or "").partition("/")
    words = [results["model"]] if several else []
    words += [results["activation"]] if results["activation"] != "clipped_relu" else []
    words += [results["method"], results["bound"], *([f"sparsity{weight}"] if weight else [])]
    return f"{row or '_'.join(words)}_seed{results['seed']}"


def short_commit(name: str) -> str:
    """Return a commit's short name.

    Raises:
        ValueError: if the repository has none of this name.
    """
    words = ["git", "rev-parse", "--short=7", "--verify", f"{name}^{{commit}}"]
    found = subprocess.run(words, cwd=HERE, capture_output=True, text=True, check=False)
    if found.returncode:
        raise ValueError(f"Expected --commit to name a commit of this repository, got {name}.")
    return found.stdout.strip()


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def main(words: Sequence[str] | None = None) -> None:
    """Take runs in; one sentence on standard error and exit code 1 where that fails."""
    options = arguments(words)
    try:
        new = collected(options.runs, options.experiment, short_commit(options.commit), options.name)
        names = {run.name for run in new}
        write([*(run for run in read() if run.name not in names), *new])
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    sys.stdout.write("".join(f"{name}\n" for name in sorted(names)))


if __name__ == "__main__":
    main()
