"""Write the table of the runs below FOLDER into its README, from what the runs left alone.

Usage: `python experiments/table.py FOLDER [README]`; another README than FOLDER's gets the rows that it names in
`<!-- rows: NAME NAME -->`.

Runs that differ in their seed alone share a row: means, and the standard deviation where there are several.
`FOLDER/timing/` may hold runs made one at a time on an otherwise idle machine; seconds an epoch and peak memory come
from them only. `RUN/afterwards/certificate.json` may hold what `lipcert.certify` proved of a run's network.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lipcert.reporting.statistics import mean_and_deviation
from lipcert.training.sweep_table import markdown

BOUNDS = ["global", "global_liplt", "local", "tight"]
LABELS = ("row", "activation", "method", "bound", "sparsity")
BEGIN, END = "<!-- table -->", "<!-- end of table -->"


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, what labels its row, `results.json`, and the share certified afterwards."""

    folder: Path
    labels: tuple[str, ...]
    results: dict[str, Any]
    afterwards: str | None

    @classmethod
    def read(cls, folder: Path) -> Run:
        results = json.loads((folder / "results.json").read_text())
        typed = yaml.safe_load((folder / ".hydra" / "overrides.yaml").read_text())
        experiment = next((each.partition("=")[2] for each in typed if each.startswith("experiment=")), "")
        row = experiment.rpartition("/")[2] if "/" in experiment else ""
        weight = yaml.safe_load((folder / ".hydra" / "config.yaml").read_text())["sparsity"]["weight"]
        labels = (row, results["activation"], results["method"], results["bound"], f"{weight:g}")
        return cls(folder, labels, results, _afterwards(folder / "afterwards" / "certificate.json"))


def _afterwards(path: Path) -> str | None:
    """Return what a record certified of how many images, and by which stages."""
    if not path.is_file():
        return None
    totals = json.loads(path.read_text())["totals"][0]
    stages = {name: count for name, count in totals["certified_by_stage"].items() if count}
    by_stage = ", ".join(f"{name} {count}" for name, count in stages.items())
    return f"{sum(stages.values())} of {totals['num_images']}" + (f" ({by_stage})" if stages else "")


def runs_below(folder: Path) -> tuple[list[Run], list[Run]]:
    """Return all finished runs, by seed, and those made for timing."""
    found = [Run.read(path.parent) for path in sorted(folder.rglob("results.json"))]
    found.sort(key=lambda run: run.results["seed"])
    timed = [run for run in found if "timing" in run.folder.relative_to(folder).parts]
    return [run for run in found if run not in timed], timed


def quantities(runs: list[Run], timed: list[Run], home: Path) -> dict[str, str]:
    """Return the cells of one row by column."""
    each = [run.results for run in runs]
    by_bound = {name: [r["certified_accuracy_by_bound"].get(name) for r in each] for name in BOUNDS}
    varying = {name: [r["varying_fraction"][name] for r in each] for name in each[0]["varying_fraction"]}
    return {
        "seeds": ", ".join(f"[{run.results['seed']}]({_link(run.folder, home)})" for run in runs),
        "clean %": _cell([r["clean_accuracy"] for r in each]),
        "PGD %": _cell([r["pgd_accuracy"] for r in each]),
        "AutoAttack %": _cell([r.get("autoattack_accuracy") for r in each]),
        "certified %: global": _cell(by_bound["global"]),
        "LipLT": _cell(by_bound["global_liplt"]),
        "local": _cell(by_bound["local"]),
        "tight": _cell(by_bound["tight"]),
        "as executed": _cell([r.get("certified_accuracy_executed") for r in each]),
        "afterwards": "; ".join(run.afterwards for run in runs if run.afterwards) or "-",
        "L global": _cell([r["global_lipschitz"] for r in each], 1, 2),
        "L local": _cell([r["local_lipschitz_mean"] for r in each], 1, 2),
        "varying neurons by layer": " ".join(f"{statistics.mean(shares):.2f}" for shares in varying.values()),
        "s an epoch": _cell([run.results["seconds_per_epoch"] for run in timed], 1, 1),
        "peak MB": _cell([run.results["peak_memory_mb"] for run in timed], 1, 0),
    }


def _cell(values: list[float | None], factor: float = 100, digits: int = 1) -> str:
    return mean_and_deviation([value for value in values if value is not None], factor, digits)


def _link(folder: Path, home: Path) -> str:
    return str(folder.relative_to(home)) if folder.is_relative_to(home) else f"../{folder.relative_to(home.parent)}"


def table(folder: Path, home: Path, names: list[str]) -> str:
    """Return the Markdown table of the runs below `folder`, seen from `home`; of the rows in `names` if there are any.

    Labels and optional columns are left out where they say nothing.
    """
    runs, timed = runs_below(folder)
    rows = {}
    for labels in sorted({run.labels for run in runs}, key=_order(names)):
        if not names or labels[0] in names:
            alike = [run for run in timed if run.labels == labels]
            rows[labels] = quantities([run for run in runs if run.labels == labels], alike, home)
    shown = [index for index, _ in enumerate(LABELS) if len({labels[index] for labels in rows}) > 1]
    if 0 in shown:
        shown = [0]  # the name of a row tells the rest
    optional = ("AutoAttack %", "LipLT", "as executed", "afterwards", "s an epoch", "peak MB")
    columns = [name for name in next(iter(rows.values())) if name not in optional or _says(rows, name)]
    header = [*(LABELS[index] for index in shown), *columns]
    body = [[*(labels[index] for index in shown), *(cells[name] for name in columns)] for labels, cells in rows.items()]
    return markdown([header, *body]).rstrip()


def _order(names: list[str]) -> Any:
    """Return a key that sorts labels as `names` do, else by activation, method (GloRo first), bound, sparsity, row."""

    def key(labels: tuple[str, ...]) -> tuple[Any, ...]:
        row, activation, method, bound, weight = labels
        place = names.index(row) if row in names else len(names)
        return place, activation, method != "gloro", method, BOUNDS.index(bound), float(weight), row

    return key


def _says(rows: dict[tuple[str, ...], dict[str, str]], column: str) -> bool:
    return any(cells[column] != "-" for cells in rows.values())


def update(readme: Path, text: str) -> None:
    """Replace what stands between the markers of a README."""
    before, rest = readme.read_text().split(BEGIN)
    _, after = rest.split(END)
    readme.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
    readme = Path(sys.argv[2]) if len(sys.argv) > 2 else folder / "README.md"
    if not 1 < len(sys.argv) < 4 or not readme.is_file():
        sys.exit("usage: python experiments/table.py FOLDER [README], with a README.md in the folder if none is given")
    named = re.search(r"<!-- rows: (.*) -->", readme.read_text())
    update(readme, table(folder, readme.parent, named[1].split() if named else []))
