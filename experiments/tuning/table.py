"""Write the table of the levers into this page: python experiments/tuning/table.py

Held-out images choose: the accuracies of the last validation in `metrics.csv`.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))
from table import update  # experiments/table.py

from lipcert.training.sweep_table import markdown

HERE = Path(__file__).parent
SETTINGS = {
    "weight": ("method", "weight"),
    "initial lr": ("schedule", "initial_lr"),
    "final lr": ("schedule", "final_lr"),
}
SHOWN = re.compile(
    r"(experiment|evaluation\..*|callbacks|trainer\..*|data\.validation|seed|method|method\.weight|bound"
    r"|model\.activation|schedule\.(initial|final)_lr)="
)
"""What is typed for every run, or has a column."""


def row(run: Path) -> list[str]:
    """Return the cells of one run."""
    results = json.loads((run / "results.json").read_text())
    config = yaml.safe_load((run / ".hydra" / "config.yaml").read_text())
    with (run / "metrics.csv").open() as file:
        held_out = [line for line in csv.DictReader(file) if line["val/certified_accuracy"]][-1]
    settings = [str(config[group].get(key, "-")) for group, key in SETTINGS.values()]
    typed = yaml.safe_load((run / ".hydra" / "overrides.yaml").read_text())
    besides = " ".join(f"`{each}`" for each in typed if not SHOWN.match(each)) or "-"
    accuracies = [
        float(held_out["val/clean_accuracy"]),
        float(held_out["val/certified_accuracy"]),
        results["clean_accuracy"],
        results["certified_accuracy"],
    ]
    link = f"[{results['method']}]({run.relative_to(HERE)})"
    words = [link, results["bound"], results["activation"], *settings, besides]
    return [*words, *(f"{100 * accuracy:.1f}" for accuracy in accuracies)]


if __name__ == "__main__":
    runs = [path.parent for path in sorted((HERE / "levers").glob("*/results.json"))]
    header = [
        "run",
        "bound",
        "activation",
        *SETTINGS,
        "besides",
        "held out: clean %",
        "certified %",
        "test: clean %",
        "certified %",
    ]
    rows = sorted((row(run) for run in runs), key=lambda cells: float(cells[-3]))
    update(HERE / "README.md", markdown([header, *rows]).rstrip())
