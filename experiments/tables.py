"""Tables of runs, as rows of cells, header first; runs that differ in their seed alone share a row.

Seconds an epoch and peak memory of an experiment come from the runs of EXPERIMENT/timing only, which were made one at a
time on an otherwise idle machine.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.runs import Run
from lipcert.reporting.tables import mean_and_deviation, percent

Table = list[list[str]]

OPTIONAL = ("AutoAttack %", "LipLT", "as executed", "afterwards", "s an epoch", "peak MB")
"""Columns of `accuracies` that are left out where they say nothing."""

SHOWN = re.compile(
    r"(experiment|evaluation\..*|callbacks|trainer\..*|data\.validation|seed|method|method\.weight|bound"
    r"|model\.activation|schedule\.(initial|final)_lr)="
)
"""What is typed for every run of `levers`, or has a column there."""


def runs_of(runs: Sequence[Run], experiment: str, row: str) -> list[Run]:
    """Return the runs of a row, by seed.

    Raises:
        ValueError: if there is none.
    """
    found = [run for run in runs if run.experiment == experiment and run.row == row]
    if not found:
        raise ValueError(f"Expected runs called {experiment}/{row}_seedN in the table of runs, got none.")
    return sorted(found, key=lambda run: run.results["seed"])


def accuracies(runs: Sequence[Run], experiment: str, *rows: str) -> Table:
    """Return means and standard deviations of what `results.json` holds, in per cent, and what is certified later."""
    cells = [_accuracies(runs, experiment, row) for row in rows]
    columns = [name for name in cells[0] if name not in OPTIONAL or any(each[name] != "-" for each in cells)]
    return [columns, *([each[name] for name in columns] for each in cells)]


def _accuracies(runs: Sequence[Run], experiment: str, row: str) -> dict[str, str]:
    found = runs_of(runs, experiment, row)
    timed = [run for run in runs if run.experiment == f"{experiment}/timing" and run.row == row]
    each = [run.results for run in found]
    by_bound = [results["certified_accuracy_by_bound"] for results in each]
    layers = [[results["varying_fraction"][layer] for results in each] for layer in each[0]["varying_fraction"]]
    return {
        "row": row,
        "seeds": ", ".join(str(results["seed"]) for results in each),
        "clean %": _cell(each, "clean_accuracy"),
        "PGD %": _cell(each, "pgd_accuracy"),
        "AutoAttack %": _cell(each, "autoattack_accuracy"),
        "certified %: global": _cell(by_bound, "global"),
        "LipLT": _cell(by_bound, "global_liplt"),
        "local": _cell(by_bound, "local"),
        "tight": _cell(by_bound, "tight"),
        "as executed": _cell(each, "certified_accuracy_executed"),
        "afterwards": "; ".join(_by_stage(run.records["afterwards"]) for run in found if run.records) or "-",
        "L global": _cell(each, "global_lipschitz", 1, 2),
        "L local": _cell(each, "local_lipschitz_mean", 1, 2),
        "varying neurons by layer": " ".join(f"{statistics.mean(shares):.2f}" for shares in layers),
        "s an epoch": _cell([run.results for run in timed], "seconds_per_epoch", 1, 1),
        "peak MB": _cell([run.results for run in timed], "peak_memory_mb", 1, 0),
        "commit": commits(found),
    }


def _cell(results: Sequence[Mapping[str, Any]], key: str, factor: float = 100, digits: int = 1) -> str:
    return mean_and_deviation([each[key] for each in results if each.get(key) is not None], factor, digits)


def _by_stage(record: Mapping[str, Any]) -> str:
    """Return what a record certified of how many images, and by which stages."""
    totals = record["totals"][0]
    stages = {name: count for name, count in totals["certified_by_stage"].items() if count}
    by_stage = ", ".join(f"{name} {count}" for name, count in stages.items())
    return f"{sum(stages.values())} of {totals['num_images']}" + (f" ({by_stage})" if stages else "")


def commits(runs: Sequence[Run]) -> str:
    """Return the commits of runs, one where it is the same for all."""
    found = [run.commit for run in runs]
    return ", ".join(found if len(set(found)) > 1 else found[:1])


def by_seed(runs: Sequence[Run], experiment: str, *rows: str) -> Table:
    """Return clean and certified accuracy of each seed, and their means, in per cent."""
    table = [["row", "seeds", "clean %", "mean", "certified %", "mean", "commit"]]
    for row in rows:
        found = runs_of(runs, experiment, row)
        cells = [row, ", ".join(str(run.results["seed"]) for run in found)]
        for key in ("clean_accuracy", "certified_accuracy"):
            values = [run.results[key] for run in found]
            cells += [", ".join(map(percent, values)), percent(statistics.mean(values))]
        table.append([*cells, commits(found)])
    return table


def seconds(runs: Sequence[Run], experiment: str, *rows: str) -> Table:
    """Return seconds an epoch, also in those of standard training of the same network, and peak memory."""
    found = [run for row in rows for run in runs_of(runs, experiment, row)]
    plain = {run.results["model"]: run.results for run in found if run.results["method"] == "standard"}
    table = [["row", "s an epoch", "of standard training", "peak MB", "commit"]]
    for run in found:
        took = run.results["seconds_per_epoch"]
        ratio = took / plain[run.results["model"]]["seconds_per_epoch"]
        table.append([run.row, f"{took:.1f}", f"{ratio:.1f}", f"{run.results['peak_memory_mb']:.0f}", run.commit])
    return table


def typed(runs: Sequence[Run], experiment: str, *rows: str) -> Table:
    """Return what was typed of activation and method, and accuracies in per cent."""
    table = [["row", "activation", "typed", "clean %", "PGD %", "certified %", "commit"]]
    for run in (run for row in rows for run in runs_of(runs, experiment, row)):
        settings = " ".join(f"`{each}`" for each in run.overrides if each.startswith("method.")) or "-"
        shares = [percent(run.results[f"{kind}_accuracy"]) for kind in ("clean", "pgd", "certified")]
        table.append([run.row, run.results["activation"], settings, *shares, run.commit])
    return table


def levers(runs: Sequence[Run], experiment: str) -> Table:
    """Return all runs by certified accuracy of the held-out images: what was typed, and accuracies in per cent."""
    table = [["row", "method", "bound", "activation", "weight", "initial lr", "final lr", "besides"]]
    table[0] += ["held out: clean %", "certified %", "test: clean %", "certified %", "commit"]
    rows = [_lever(run) for run in runs if run.experiment == experiment]
    return table + sorted(rows, key=lambda cells: float(cells[9]))


def _lever(run: Run) -> list[str]:
    settings = [run.typed(key) or "-" for key in ("method.weight", "schedule.initial_lr", "schedule.final_lr")]
    besides = " ".join(f"`{each}`" for each in run.overrides if not SHOWN.match(each)) or "-"
    held_out = [line for line in run.metrics if line["val/certified_accuracy"]][-1]
    shares = [float(held_out["val/clean_accuracy"]), float(held_out["val/certified_accuracy"])]
    shares += [run.results["clean_accuracy"], run.results["certified_accuracy"]]
    words = [run.row, *(run.results[key] for key in ("method", "bound", "activation")), *settings, besides]
    return [*words, *map(percent, shares), run.commit]
