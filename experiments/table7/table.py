"""Write seconds an epoch and peak memory of the runs below this folder into README.md.

python experiments/table7/table.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from table import update  # experiments/table.py

from lipcert.training.sweep_table import markdown

HERE = Path(__file__).parent
METHODS = ["standard", "gloro_published", "bcp", "cap"]
BOUNDS = ["global", "local", "tight"]


def order(run: tuple[Path, dict[str, Any]]) -> tuple[bool, int, int]:
    """Return a key: the smaller network first, then by method and bound."""
    results = run[1]
    return results["model"] != "small", METHODS.index(results["method"]), BOUNDS.index(results["bound"])


def rows(runs: list[tuple[Path, dict[str, Any]]]) -> list[list[str]]:
    """Return the table's rows, header first; each method's time is also given in those of standard training."""
    plain = {each["model"]: each["seconds_per_epoch"] for _, each in runs if each["method"] == "standard"}
    found = [["network", "method", "bound", "s an epoch", "of standard training", "peak MB"]]
    for folder, each in sorted(runs, key=order):
        seconds = each["seconds_per_epoch"]
        cells = [f"[{each['model']}]({folder.relative_to(HERE)})", each["method"]]
        cells.append(each["bound"] if each["method"] != "standard" else "-")
        found.append(
            [*cells, f"{seconds:.1f}", f"{seconds / plain[each['model']]:.1f}", f"{each['peak_memory_mb']:.0f}"]
        )
    return found


if __name__ == "__main__":
    runs = [(path.parent, json.loads(path.read_text())) for path in HERE.rglob("results.json")]
    update(HERE / "README.md", markdown(rows(runs)).rstrip())
