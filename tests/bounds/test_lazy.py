"""Values on demand: computed once, with the graph of where they were promised."""

from __future__ import annotations

import pytest
import torch

from lipcert.bounds.lazy import Lazy


def test_computed_once_and_only_when_asked_for() -> None:
    calls: list[int] = []
    lazy = Lazy(lambda: calls.append(1) or len(calls))
    assert calls == []
    assert (lazy.value, lazy.value) == (1, 1)
    assert calls == [1]


@pytest.mark.parametrize("recorded", [True, False])
def test_graph_is_that_of_the_promise(recorded: bool) -> None:
    weight = torch.ones(2, requires_grad=True)
    with torch.set_grad_enabled(recorded):
        lazy = Lazy(lambda: weight * 2)
    with torch.set_grad_enabled(not recorded):
        assert lazy.value.requires_grad is recorded


def test_a_failure_is_not_taken_for_a_value() -> None:
    def fail() -> int:
        raise ValueError("no box")

    lazy = Lazy(fail)
    with pytest.raises(ValueError, match="no box"):
        _ = lazy.value
    with pytest.raises(RuntimeError, match="failed to be computed"):
        _ = lazy.value


def test_what_is_not_kept_is_made_for_everyone_who_asks() -> None:
    calls: list[int] = []
    lazy = Lazy(lambda: calls.append(1) or len(calls), kept=False)
    assert (lazy.value, lazy.value) == (1, 2)


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("asked", [True, False])
def test_what_is_not_kept_has_a_graph_where_promise_and_asker_record_one(recorded: bool, asked: bool) -> None:
    weight = torch.ones(2, requires_grad=True)
    with torch.set_grad_enabled(recorded):
        lazy = Lazy(lambda: weight * 2, kept=False)
    with torch.set_grad_enabled(asked):
        assert lazy.value.requires_grad is (recorded and asked)
