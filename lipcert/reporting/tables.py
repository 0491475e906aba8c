"""Tables over runs: Tables 4 to 7 of the paper, from `results.json` alone; how their numbers are written."""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from lipcert.reporting.groups import TITLES, WORDS, DataSet, Group, titled

WEIGHT = "sparsity.weight"

ABSENT = "-"
"""Stands for a number that is not there."""


def mean_and_deviation(values: Sequence[float], factor: float = 100, digits: int = 1) -> str:
    """Format a mean, with its (sample) standard deviation over seeds where there are two or more."""
    if not values:
        return ABSENT
    mean = _fixed(factor * statistics.mean(values), digits)
    return mean if len(values) < 2 else f"{mean} ± {_fixed(factor * statistics.stdev(values), digits)}"


def _fixed(value: float, digits: int) -> str:
    """Return a number with `digits` decimals, or in scientific notation where that would be a row of digits."""
    return f"{value:.2e}" if abs(value) >= 1e5 else f"{value:.{digits}f}"


def percent(fraction: float | None) -> str:
    """Return a fraction as percentage with one decimal."""
    return ABSENT if fraction is None else f"{100 * fraction:.1f}"


def short(value: float) -> str:
    """Return a number with four significant digits, without trailing zeros."""
    return ABSENT if math.isnan(value) else f"{value:.4g}"


@dataclass(frozen=True)
class Table:
    """A table of text: rows of cells, of which those from column `numbers` on are numbers."""

    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: int


def _mean(group: Group, key: str, part: str | None = None, factor: float = 100, digits: int = 1) -> str:
    return mean_and_deviation(group.values(key, part), factor, digits)


def _varying(group: Group) -> str:
    """Return the mean percentage of varying neurons of each layer."""
    layers = dict.fromkeys(layer for run in group.runs for layer in run.numbers("varying_fraction"))
    means = [statistics.mean(group.values("varying_fraction", layer)) for layer in layers]
    return " · ".join(f"{100 * mean:.0f}" for mean in means) or ABSENT


Columns = Mapping[str, Callable[[Group], str]]
"""What a cell of a group says, by the column's head."""

ACCURACIES: Columns = {
    "clean %": partial(_mean, key="clean_accuracy"),
    "PGD %": partial(_mean, key="pgd_accuracy"),
    "certified %": partial(_mean, key="certified_accuracy"),
}
LIPSCHITZ: Columns = {
    "L global": partial(_mean, key="global_lipschitz", factor=1, digits=2),
    "L local": partial(_mean, key="local_lipschitz_mean", factor=1, digits=2),
}
VARYING: Columns = {"varying % by layer": _varying}


def _by_group(data: DataSet, title: str, caption: str, *columns: Columns) -> Table:
    """Return a table with a row a group, behind the run's name, what tells it apart and its seeds."""
    constant = {key: data.groups[0].text(key) for key in WORDS if key not in data.columns}
    shared = ", ".join(f"{TITLES.get(key, key)} {text}" for key, text in constant.items() if text != "?")
    cells = {head: cell for each in columns for head, cell in each.items()}
    called = ("run",) if data.names else ()
    return Table(
        f"{title} on {data.name}",
        f"{data.name}{': ' if shared else ''}{shared}. As {caption}",
        (*called, *map(titled, data.columns), "seeds", *cells),
        tuple(
            (
                *[group.called][: len(called)],
                *map(group.text, data.columns),
                group.seeds,
                *(cell(group) for cell in cells.values()),
            )
            for group in data.groups
        ),
        len(called) + len(data.columns) + 1,
    )


def accuracies(data: DataSet) -> Table:
    """Return clean, attacked and certified accuracies, the latter also by each other bound: Table 4."""
    key = "certified_accuracy_by_bound"
    bounds = dict.fromkeys(bound for group in data.groups for run in group.runs for bound in run.numbers(key))
    by_bound = {f"by {bound} %": partial(_mean, key=key, part=bound) for bound in bounds}
    caption = "Table 4 of the paper: certified by the bound of training; then by each bound."
    return _by_group(data, "Accuracies", caption, ACCURACIES, by_bound)


def lipschitz(data: DataSet) -> Table:
    """Return global and local Lipschitz bounds beside accuracies: Table 5."""
    caption = "Table 5 of the paper: upper bounds up to the last activation, the local one a mean over test images."
    return _by_group(data, "Lipschitz bounds", caption, LIPSCHITZ, ACCURACIES, VARYING)


def sparsity(data: DataSet) -> Table | None:
    """Return accuracies by the weight of the sparsity loss, None where there is one weight alone: Table 6."""
    if WEIGHT not in data.columns:
        return None

    def weight(group: Group) -> float:
        value = group.first.settings.get(WEIGHT)
        return value if isinstance(value, int | float) else math.inf

    others = [key for key in data.columns if key != WEIGHT]
    ordered = replace(data, groups=tuple(sorted(data.groups, key=weight)), columns=(WEIGHT, *others))
    table = _by_group(ordered, "Weight of the sparsity loss", "Table 6 of the paper.", ACCURACIES, VARYING)
    return replace(table, columns=tuple("λ sparse" if head == WEIGHT else head for head in table.columns))


def seconds(data_sets: Sequence[DataSet]) -> Table | None:
    """Return seconds an epoch, a row a network and a column a method and bound: Table 7."""
    found: dict[tuple[str, ...], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in (run for data in data_sets for group in data.groups for run in group.runs):
        taken = run.number("seconds_per_epoch")
        if taken is not None:
            network = run.word("data"), run.word("model"), run.word("activation")
            found[network][f"{run.word('method')} {run.word('bound')}"].append(taken)
    columns = list(dict.fromkeys(column for cells in found.values() for column in cells))
    rows = [
        (*network, *(mean_and_deviation(cells.get(column, []), 1) for column in columns))
        for network, cells in found.items()
    ]
    caption = (
        "As Table 7 of the paper: training alone, without validation. Times compare only between runs made on the same "
        "machine, one at a time; all runs of a method and bound are averaged, whatever their other settings."
    )
    return (
        Table("Seconds an epoch", caption, ("data", "model", "activation", *columns), tuple(rows), 3) if rows else None
    )


def tables(data_sets: Sequence[DataSet]) -> list[Table]:
    """Return all tables that there is anything for; those of several data sets are kept apart."""
    found = [make(data) for make in (accuracies, lipschitz, sparsity) for data in data_sets]
    return [table for table in (*found, seconds(data_sets)) if table is not None]
