"""Work that is left out while training: bounds stay sound, and everything is done where it pays or nobody asked."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lipcert.bounds import Analysis, Bound, Economy, analyze
from tests.networks import NETWORKS, images, network
from tests.oracles import ExactNorms

BOUNDS = [Bound.GLOBAL, Bound.LOCAL, Bound.TIGHT, Bound.LINEAR_SPLIT]


def _analysis(name: str, kind: str, bound: Bound, economy: Economy | None) -> Analysis:
    torch.manual_seed(0)
    return analyze(network(name, kind), images(12), 0.3, bound, ExactNorms(), economy=economy)


def _numbers(analysis: Analysis) -> list[Tensor]:
    boxes = [each for bounds in analysis.activations for each in (bounds.lower, bounds.upper)]
    return [*boxes, analysis.lipschitz, analysis.logits]


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("kind", ["relu", "clipped_relu", "maxmin", "clipped_maxmin"])
@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_left_out_only_loosens(name: str, kind: str, bound: Bound) -> None:
    everything = _analysis(name, kind, bound, None)
    nothing = _analysis(name, kind, bound, Economy(worth=2.0))
    for full, spared in zip(everything.activations, nothing.activations, strict=True):
        assert (spared.lower <= full.lower + 1e-12).all()
        assert (spared.upper >= full.upper - 1e-12).all()
    assert (nothing.lipschitz >= everything.lipschitz * (1 - 1e-12)).all()
    if bound is not Bound.LINEAR_SPLIT:
        assert (nothing.lipschitz <= everything.global_lipschitz * (1 + 1e-12)).all()


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_where_everything_pays_nothing_changes(name: str, bound: Bound) -> None:
    full, same = (_numbers(_analysis(name, "clipped_relu", bound, each)) for each in (None, Economy(worth=-9.0)))
    assert all(torch.equal(first, second) for first, second in zip(full, same, strict=True))


def test_something_is_left_out_of_a_training_step() -> None:
    """Otherwise the tests above would compare a walk with itself."""
    economy = Economy(worth=2.0)
    spared = _analysis("plain", "clipped_relu", Bound.TIGHT, economy)
    assert set(economy.state_dict()) == {
        *(f"masks {layer}" for layer in (1, 3, 6)),
        *(f"rows behind {layer}" for layer in (1, 3, 6)),
        *(f"box {layer}" for layer in (2, 5)),  # nobody asks for the box of the logits
    }
    assert torch.equal(spared.lipschitz, spared.global_lipschitz)
    full = _analysis("plain", "clipped_relu", Bound.TIGHT, None)
    assert (full.lipschitz < full.global_lipschitz).any()


def test_nothing_is_left_out_without_gradients() -> None:
    economy = Economy(worth=2.0)
    with torch.no_grad():
        spared = _numbers(_analysis("plain", "clipped_relu", Bound.TIGHT, economy))
        full = _numbers(_analysis("plain", "clipped_relu", Bound.TIGHT, None))
    assert all(torch.equal(first, second) for first, second in zip(full, spared, strict=True))
    assert economy.state_dict() == {}


def test_gains_are_measured_now_and_then() -> None:
    economy, measured = Economy(every=3, worth=0.1), []
    gains = iter([0.5, 0.01, float("nan")])

    def gain() -> Tensor:
        assert not torch.is_grad_enabled()
        measured.append(len(decisions))
        return torch.tensor(next(gains))

    decisions: list[bool] = []
    for _ in range(9):
        decisions.append(economy.pays("work", gain))
    assert measured == [0, 3, 6]
    assert decisions == [True] * 3 + [False] * 3 + [True] * 3  # a gain that is not a number leaves nothing out


def test_decisions_are_restored() -> None:
    economy, restored = Economy(every=4), Economy(every=4)
    for _ in range(2):
        economy.pays("work", lambda: torch.tensor(0.0))
    restored.load_state_dict(economy.state_dict())

    def never() -> Tensor:
        raise AssertionError("measured too early")

    assert [restored.pays("work", never) for _ in range(2)] == [False, False]
    assert restored.pays("work", lambda: torch.tensor(1.0))


def test_bad_interval() -> None:
    with pytest.raises(ValueError, match="`every` >= 1, got 0"):
        Economy(every=0)
