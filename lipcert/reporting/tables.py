"""Tables over runs: Tables 4 to 7 of the paper, from `results.json` alone; means ± sample deviations over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lipcert.reporting.groups import TITLES, DataSet, Group
from lipcert.reporting.statistics import ABSENT, mean_and_deviation

ACCURACIES = {"clean %": "clean_accuracy", "PGD %": "pgd_accuracy", "certified %": "certified_accuracy"}

WEIGHT = "sparsity.weight"


@dataclass(frozen=True)
class Table:
    """A table of text: rows of cells, of which those from column `numbers` on are numbers."""

    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: int


def _heads(keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(TITLES.get(key, key) for key in keys)


def _about(data: DataSet) -> str:
    """Return what all rows have in common."""
    said = [f"{TITLES.get(key, key)} {value}" for key, value in data.constant.items() if value != "?"]
    return f"{data.name}: {', '.join(said)}." if said else f"{data.name}."


def accuracies(data: DataSet) -> Table:
    """Return clean, attacked and certified accuracies, the latter also by each other bound: Table 4."""
    bounds = list(
        dict.fromkeys(bound for group in data.groups for run in group.runs for bound in run.certified_by_bound)
    )
    rows = [
        (
            *label,
            group.seeds,
            *(mean_and_deviation(group.values(key)) for key in ACCURACIES.values()),
            *(mean_and_deviation(group.certified_by(bound)) for bound in bounds),
        )
        for label, group in zip(data.labels, data.groups, strict=True)
    ]
    heads = (*_heads(data.columns), "seeds", *ACCURACIES, *(f"by {bound} %" for bound in bounds))
    caption = f"{_about(data)} As Table 4 of the paper: certified by the bound of training; then by each bound."
    return Table(f"Accuracies on {data.name}", caption, heads, tuple(rows), len(data.columns) + 1)


def lipschitz(data: DataSet) -> Table:
    """Return global and local Lipschitz bounds beside accuracies: Table 5."""
    rows = [
        (
            *label,
            group.seeds,
            mean_and_deviation(group.values("global_lipschitz"), 1, 2),
            mean_and_deviation(group.values("local_lipschitz_mean"), 1, 2),
            *(mean_and_deviation(group.values(key)) for key in ACCURACIES.values()),
            _varying(group),
        )
        for label, group in zip(data.labels, data.groups, strict=True)
    ]
    heads = (*_heads(data.columns), "seeds", "L global", "L local", *ACCURACIES, "varying % by layer")
    caption = (
        f"{_about(data)} As Table 5 of the paper: upper bounds up to the last activation, the local one a mean over "
        "test images."
    )
    return Table(f"Lipschitz bounds on {data.name}", caption, heads, tuple(rows), len(data.columns) + 1)


def _varying(group: Group) -> str:
    """Return the mean percentage of varying neurons of each layer."""
    layers = dict.fromkeys(layer for run in group.runs for layer in run.varying)
    means = [
        mean_and_deviation([sum(run.varying[layer] for run in runs) / len(runs)], digits=0)
        for layer in layers
        if (runs := [run for run in group.runs if layer in run.varying])
    ]
    return " · ".join(means) or ABSENT


def sparsity(data: DataSet) -> Table | None:
    """Return accuracies by the weight of the sparsity loss, None where there is one weight alone: Table 6."""
    if WEIGHT not in data.columns:
        return None
    others = [key for key in data.columns if key != WEIGHT]
    place = data.columns.index(WEIGHT)
    ordered = sorted(zip(data.labels, data.groups, strict=True), key=lambda pair: _weight(pair[0][place]))
    rows = [
        (
            label[place],
            *(label[data.columns.index(key)] for key in others),
            group.seeds,
            *(mean_and_deviation(group.values(key)) for key in ACCURACIES.values()),
            _varying(group),
        )
        for label, group in ordered
    ]
    heads = ("λ sparse", *_heads(others), "seeds", *ACCURACIES, "varying % by layer")
    return Table(
        f"Weight of the sparsity loss on {data.name}",
        f"{_about(data)} As Table 6 of the paper.",
        heads,
        tuple(rows),
        len(others) + 2,
    )


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("inf")


def seconds(data_sets: Sequence[DataSet]) -> Table | None:
    """Return seconds an epoch, a row a network and a column a method and bound: Table 7."""
    cells: dict[tuple[str, ...], dict[str, list[float]]] = {}
    for data in data_sets:
        for group in data.groups:
            run = group.first
            row, column = (
                (data.name, run.word("model"), run.word("activation")),
                f"{run.word('method')} {run.word('bound')}",
            )
            found = group.values("seconds_per_epoch")
            if found:
                cells.setdefault(row, {}).setdefault(column, []).extend(found)
    columns = list(dict.fromkeys(column for row in cells.values() for column in row))
    if not columns:
        return None
    rows = [
        (*row, *(mean_and_deviation(found.get(column, []), 1, 1) for column in columns)) for row, found in cells.items()
    ]
    caption = (
        "As Table 7 of the paper: training alone, without validation. Times compare only between runs made on the same "
        "machine, one at a time; all runs of a method and bound are averaged, whatever their other settings."
    )
    return Table("Seconds an epoch", caption, ("data", "model", "activation", *columns), tuple(rows), 3)


def tables(data_sets: Sequence[DataSet]) -> list[Table]:
    """Return all tables that there is anything for; those of several data sets are kept apart."""
    found: list[Table | None] = []
    for make in (accuracies, lipschitz, sparsity):
        found += [make(data) for data in data_sets]
    return [table for table in (*found, seconds(data_sets)) if table is not None]
