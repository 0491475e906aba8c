"""What runs are told apart by, and the colours that tell their lines apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lipcert.reporting.figures.picture import DARK, LIGHT, own_roles
from lipcert.reporting.groups import by_data_set, differences, filled, group_runs
from lipcert.reporting.runs import Run, State

SETTINGS = {"data.name": "digits", "model.name": "small", "optimizer._target_": "Adam", "method.weight": 1.0}


def _run(name: str, **changed: Any) -> Run:
    settings = {**SETTINGS, **{key.replace("__", "."): value for key, value in changed.items()}}
    return Run(Path(name), name, State.UNFINISHED, configuration={k: v for k, v in settings.items() if v is not None})


def test_every_difference_is_named() -> None:
    runs = [_run("a"), _run("b", **{"optimizer._target_": "SGD", "schedule.epochs": 9}), _run("c", method__weight=2.0)]
    assert differences(filled(runs)) == [
        ("optimizer._target_=Adam", "method.weight=1.0"),
        ("optimizer._target_=SGD", "method.weight=1.0"),
        ("optimizer._target_=Adam", "method.weight=2.0"),
    ]
    (data,) = by_data_set(group_runs(filled(runs)))
    assert len({name for name, _ in data.named_groups}) == 3


def test_older_runs_did_what_all_others_say() -> None:
    older, new = _run("older", method__weight=None), _run("new", seed=1)
    assert [len(group.members) for group in group_runs(filled([older, new]))] == [2]
    assert differences(filled([older, new])) == [(), ()]
    other = _run("other", method__weight=2.0)
    assert [len(group.members) for group in group_runs(filled([older, new, other]))] == [1, 1, 1]


def test_bounds_have_colours_of_their_own() -> None:
    names = ["global", "local", "tight", "liplt", "global_liplt", "linear_split"]
    roles = own_roles(names)
    assert [roles[name] for name in names[:3]] == names[:3]
    for palette in (LIGHT, DARK):
        assert len({palette[role] for role in roles.values()}) == len(names)
