"""Write the table of the runs below FOLDER into its README, from their `results.json` alone.

Usage: `python experiments/table.py FOLDER`.

Runs that differ in their seed alone share a row: means, and the standard deviation where there are several.
`FOLDER/timing/` may hold runs made one at a time on an otherwise idle machine; seconds an epoch come from them only.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from lipcert.reporting.statistics import mean_and_deviation
from lipcert.training.sweep_table import markdown

BOUNDS = ["global", "local", "tight"]
COLUMNS = ("method", "bound", "seeds", "clean %", "PGD %", "certified %: global", "local", "tight")
MEANS = ("L global", "L local", "varying neurons by layer", "s an epoch")


def results_below(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return (run folder, results) of all finished runs."""
    return [(path.parent, json.loads(path.read_text())) for path in sorted(folder.rglob("results.json"))]


def row(runs: list[tuple[Path, dict[str, Any]]], timings: list[dict[str, Any]], folder: Path) -> list[str]:
    """Return one row of the table: runs of the same activation, method and bound."""
    results = [result for _, result in runs]
    first = results[0]
    links = ", ".join(f"[{result['seed']}]({path.relative_to(folder)})" for path, result in runs)
    certified = [
        mean_and_deviation(
            [r["certified_accuracy_by_bound"][b] for r in results if b in r["certified_accuracy_by_bound"]]
        )
        for b in BOUNDS
    ]
    varying = " ".join(
        f"{statistics.mean(result['varying_fraction'][name] for result in results):.2f}"
        for name in first["varying_fraction"]
    )
    seconds = [
        t["seconds_per_epoch"]
        for t in timings
        if all(t[key] == first[key] for key in ("activation", "method", "bound"))
    ]
    return [
        first["method"],
        first["bound"],
        links,
        mean_and_deviation([result["clean_accuracy"] for result in results]),
        mean_and_deviation([result["pgd_accuracy"] for result in results]),
        *certified,
        mean_and_deviation([result["global_lipschitz"] for result in results], 1, 2),
        mean_and_deviation([result["local_lipschitz_mean"] for result in results], 1, 2),
        varying,
        mean_and_deviation(seconds, 1, 1),
    ]


def table(folder: Path) -> str:
    """Return the Markdown table of all runs below `folder`."""
    everything = results_below(folder)
    timings = [result for path, result in everything if "timing" in path.relative_to(folder).parts]
    runs = [(path, result) for path, result in everything if "timing" not in path.relative_to(folder).parts]
    groups: dict[tuple[str, str, str], list[tuple[Path, dict[str, Any]]]] = {}
    for path, result in sorted(runs, key=lambda run: run[1]["seed"]):
        groups.setdefault((result["activation"], result["method"], result["bound"]), []).append((path, result))
    order = sorted(groups, key=lambda key: (key[0], key[1] != "gloro", key[1], BOUNDS.index(key[2])))
    rows = [[*COLUMNS, *MEANS], *(row(groups[key], timings, folder) for key in order)]
    if len({activation for activation, _, _ in groups}) > 1:
        rows = [["activation", *rows[0]], *([key[0], *each] for key, each in zip(order, rows[1:], strict=True))]
    return markdown(rows).rstrip()


BEGIN, END = "<!-- table -->", "<!-- end of table -->"


def update(readme: Path, text: str) -> None:
    """Replace what stands between the markers of a README."""
    before, rest = readme.read_text().split(BEGIN)
    _, after = rest.split(END)
    readme.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


if __name__ == "__main__":
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "README.md").is_file():
        sys.exit("usage: python experiments/table.py FOLDER, with a README.md in it")
    update(Path(sys.argv[1]) / "README.md", table(Path(sys.argv[1])))
