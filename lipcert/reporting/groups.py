"""Runs that differ in their seed alone form a group; what tells groups apart names them."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lipcert.reporting.runs import ELSEWHERE, Run, State

WORDS = ("model", "activation", "method", "bound", "epsilon", "num_test")
"""Keys of `results.json` by which groups are named."""

TITLES = {"num_test": "images", "epsilon": "ε"}
"""How columns are headed, where not by the key itself."""

CLASS = "._target_"
"""Settings that end so name a class, which is told by its last word."""

COVERED = (*ELSEWHERE.values(), "epsilon", "data.limit_test")
"""Settings that the words say."""

LAST_RESORT = (
    *("evaluation.", "trainer.", "warm_start.", "bound.precision"),
    *("bound.economy", "bound.skip_every", "bound.box_gradients"),
)
"""Settings that name groups only where no other does."""


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone."""

    members: tuple[Run, ...]

    @property
    def runs(self) -> tuple[Run, ...]:
        """Those with results."""
        return tuple(run for run in self.members if run.state is State.COMPLETE)

    @property
    def first(self) -> Run:
        """A run that stands for the group, one with results if there is any."""
        return (*self.runs, *self.members)[0]

    def values(self, key: str, part: str | None = None) -> list[float]:
        """Return the numbers under a key of `results.json`, or under a part of it, one a run that has one."""
        found = [run.number(key) if part is None else run.numbers(key).get(part) for run in self.runs]
        return [value for value in found if value is not None]

    def text(self, key: str) -> str:
        """Return what the group has under a key of `WORDS` or of the configuration."""
        if key in WORDS:
            number = self.first.number(key)
            return self.first.word(key) if number is None else f"{number:.6g}"
        value = self.first.settings.get(key)
        if key.endswith(CLASS):
            return str(value).rpartition(".")[2]
        if isinstance(value, list):
            return "+".join(map(str, value)) or "none"
        return "-" if value is None else str(value)

    @property
    def seeds(self) -> str:
        """The seeds with results, and how many runs have none."""
        seeds = ", ".join(sorted((run.word("seed") for run in self.runs), key=lambda seed: (len(seed), seed)))
        lacking = len(self.members) - len(self.runs)
        missing = f"{lacking} missing" if lacking else ""
        return f"{seeds} ({missing})" if seeds and missing else seeds or missing

    @property
    def called(self) -> str:
        """What somebody called its only run; empty for several, and where a job's settings or a time name it."""
        last = self.members[0].name.rpartition("/")[2]
        given = len(self.members) == 1 and "=" not in last and last != "job" and re.search("[A-Za-z]", last)
        return self.members[0].name if given else ""

    @property
    def doubled(self) -> bool:
        """Whether a seed stands for several runs."""
        return len({run.word("seed") for run in self.runs}) < len(self.runs)


@dataclass(frozen=True)
class DataSet:
    """Groups of one data set, in the order in which the runs were given, and the keys by which they differ."""

    name: str
    groups: tuple[Group, ...]
    columns: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """What somebody called the only run of each of several groups; none where one has no such name."""
        called = [group.called for group in self.groups]
        return called if all(called) and len(called) > 1 else []

    @property
    def named_groups(self) -> list[tuple[str, Group]]:
        """The groups, each with a short name, unique among them."""
        if len(self.groups) == 1:
            (group,) = self.groups
            return [(f"{group.first.word('method')} {group.first.word('bound')}", group)]
        told = (" ".join(_named(group, key) for key in self.columns if group.text(key) != "-") for group in self.groups)
        return list(zip(self.names or told, self.groups, strict=True))


def _named(group: Group, key: str) -> str:
    return group.text(key) if key in ELSEWHERE else f"{titled(key).rpartition('.')[2]}={group.text(key)}"


def titled(key: str) -> str:
    """Return how a column of a word or setting is headed: classes by what they are of, `optimizer`."""
    return TITLES.get(key, key.removesuffix(CLASS))


def filled(runs: Sequence[Run]) -> list[Run]:
    """Return runs, those of older versions with the settings that they lack and all others agree on."""
    agreed = {key: values[0] for key, values in _values(runs).items() if len(values) == 1}
    return [replace(run, configuration={**agreed, **run.configuration}) if run.settings else run for run in runs]


def _values(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Return the values that runs have of each setting, each once."""
    found: dict[str, list[Any]] = {}
    for run in runs:
        for key, value in run.settings.items():
            if value not in found.setdefault(key, []):
                found[key].append(value)
    return found


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Return the groups of runs that were trained, in order; results group those without a configuration."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if run.results or run.settings:
            shared = run.settings or {word: run.word(word) for word in ("data", *WORDS)}
            groups.setdefault(json.dumps(shared, sort_keys=True, default=str), []).append(run)
    return [Group(tuple(members)) for members in groups.values()]


def by_data_set(groups: Sequence[Group]) -> list[DataSet]:
    """Return the groups of each data set, and what tells them apart there."""
    found: dict[str, list[Group]] = {}
    for group in groups:
        found.setdefault(group.first.word("data"), []).append(group)
    return [DataSet(name, tuple(members), _columns(members)) for name, members in found.items()]


def _columns(groups: Sequence[Group]) -> tuple[str, ...]:
    """Return the words that differ and, until all are told apart, the settings that tell most apart."""

    def told_apart(*keys: str) -> int:
        return len({tuple(map(group.text, keys)) for group in groups})

    columns = [key for key in WORDS if told_apart(key) > 1]
    settings = dict.fromkeys(key for group in groups for key in group.first.settings if key not in COVERED)
    candidates = sorted(settings, key=lambda key: key.startswith(LAST_RESORT))
    while candidates and told_apart(*columns) < len(groups):
        best = max(candidates, key=lambda key: told_apart(*columns, key))
        if told_apart(*columns, best) == told_apart(*columns):
            break
        columns.append(best)
    return tuple(columns)


def differences(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """Return, of each run, the settings in which runs differ, as `key=value`, without those that the words say."""
    keys = [key for key, values in _values(runs).items() if len(values) > 1 and key not in COVERED]
    return [tuple(f"{key}={run.settings[key]}" for key in keys if key in run.settings) for run in runs]
