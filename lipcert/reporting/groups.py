"""Runs that differ in their seed alone form a group; what tells groups apart names them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from lipcert.reporting.runs import Run, State

WORDS = ("model", "activation", "method", "bound", "epsilon", "num_test")
"""Keys of `results.json` by which groups are named."""

TITLES = {"num_test": "images", "epsilon": "ε"}
"""How columns are headed, where not by the key itself."""

COVERED = ("data.name", "model.name", "model.activation", "method._target_", "bound.name", "epsilon", "data.limit_test")
"""Settings that the words say."""

LAST_RESORT = (
    *("evaluation.", "trainer.", "warm_start.", "bound.precision"),
    *("bound.economy", "bound.skip_every", "bound.box_gradients"),
)
"""Settings that name groups only where no other does."""


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone; `runs` have results, `missing` have none."""

    runs: tuple[Run, ...]
    missing: tuple[Run, ...]

    @property
    def first(self) -> Run:
        """A run that stands for the group, one with results if there is any."""
        return (*self.runs, *self.missing)[0]

    def values(self, key: str) -> list[float]:
        """Return the finite numbers under a key of `results.json`, one a run that has one."""
        return [value for run in self.runs if (value := run.number(key)) is not None]

    def certified_by(self, bound: str) -> list[float]:
        """Return certified accuracies by a bound, one a run that has one."""
        return [run.certified_by_bound[bound] for run in self.runs if bound in run.certified_by_bound]

    @property
    def seeds(self) -> str:
        """The seeds with results, and how many runs have none."""
        seeds = ", ".join(sorted((run.word("seed") for run in self.runs), key=lambda seed: (len(seed), seed)))
        missing = f"{len(self.missing)} missing" if self.missing else ""
        return f"{seeds} ({missing})" if seeds and missing else seeds or missing

    @property
    def doubled(self) -> bool:
        """Whether a seed stands for several runs."""
        seeds = [run.word("seed") for run in self.runs]
        return len(set(seeds)) < len(seeds)


@dataclass(frozen=True)
class DataSet:
    """Groups of one data set, and what tells them apart.

    Attributes:
        name: of the data set.
        groups: in the order in which the runs were given.
        columns: keys by which the groups differ; constant: those of `WORDS` by which they do not, with the value.
        labels: a value a column for each group.
    """

    name: str
    groups: tuple[Group, ...]
    columns: tuple[str, ...]
    constant: dict[str, str]
    labels: tuple[tuple[str, ...], ...]

    @property
    def names(self) -> list[str]:
        """A short name for each group, unique among them."""
        if len(self.groups) == 1:
            return [f"{group.first.word('method')} {group.first.word('bound')}" for group in self.groups]
        shown = [key if "." in key or key in ("num_test", "epsilon") else "" for key in self.columns]
        return [
            " ".join(_named(key, value) for key, value in zip(shown, label, strict=True) if value != "-")
            for label in self.labels
        ]


def _named(key: str, value: str) -> str:
    return f"{TITLES.get(key, key.rpartition('.')[2])}={value}" if key else value


def _key(run: Run) -> str:
    """Return what runs of a group share: the configuration where there is one, else what results say."""
    settings = run.settings or {word: run.word(word) for word in ("data", *WORDS)}
    return json.dumps(settings, sort_keys=True, default=str)


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Return the groups of runs that were trained, in order."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if run.results or run.settings:
            groups.setdefault(_key(run), []).append(run)
    return [
        Group(
            tuple(run for run in members if run.state is State.COMPLETE),
            tuple(run for run in members if run.state is not State.COMPLETE),
        )
        for members in groups.values()
    ]


def _value(group: Group, key: str) -> str:
    if key in WORDS:
        number = group.first.number(key)
        return group.first.word(key) if number is None else f"{number:.6g}"
    value = group.first.settings.get(key)
    if isinstance(value, list):
        return "+".join(map(str, value)) or "none"
    return "-" if value is None else str(value)


def _differing(groups: Sequence[Group], keys: Sequence[str]) -> list[str]:
    return [key for key in keys if len({_value(group, key) for group in groups}) > 1]


def _further(groups: Sequence[Group], columns: Sequence[str]) -> list[str]:
    """Return settings, as few as are found one after the other, that tell apart groups whose columns are alike."""
    found: list[str] = []

    def told_apart(key: str | None = None) -> int:
        keys = (*columns, *found, *([key] if key else []))
        return len({tuple(_value(group, each) for each in keys) for group in groups})

    candidates = list(dict.fromkeys(key for group in groups for key in group.first.settings if key not in COVERED))
    candidates.sort(key=lambda key: key.startswith(LAST_RESORT))
    while told_apart() < len(groups):
        best = max(candidates, key=told_apart, default=None)
        if best is None or told_apart(best) == told_apart():
            break
        found.append(best)
    return found


def by_data_set(groups: Sequence[Group]) -> list[DataSet]:
    """Return the groups of each data set, and what tells them apart there."""
    found: dict[str, list[Group]] = {}
    for group in groups:
        found.setdefault(group.first.word("data"), []).append(group)
    return [_data_set(name, members) for name, members in found.items()]


def _data_set(name: str, groups: list[Group]) -> DataSet:
    columns = _differing(groups, WORDS)
    columns += _further(groups, columns)
    constant = {key: _value(groups[0], key) for key in WORDS if key not in columns}
    labels = tuple(tuple(_value(group, key) for key in columns) for group in groups)
    return DataSet(name, tuple(groups), tuple(columns), constant, labels)
