"""Norm bounds of a trained network's masked layers are never below exact norms, and one that is gets noticed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lipcert.norms import UpperNorms, upper
from lipcert.soundness import dense
from lipcert.soundness.norms import NormsOutcome, compare_norms
from tests.networks import images, network
from tests.soundness.trained import EPSILON, digits, trained


def _compared(model: nn.Module, inputs: Tensor, count: int = 210, side: int = 1000) -> NormsOutcome:
    return compare_norms(model, inputs, EPSILON, count, side, np.random.default_rng(0))


@pytest.mark.parametrize("activation", ["clipped_relu", "clipped_maxmin"])
def test_hundreds_of_masked_layers(activation: str) -> None:
    found = _compared(trained(activation), digits(40)[0])
    assert found.compared >= 210
    assert found.refutations == []
    assert {each.layer for each in found.ratios} == {"1", "3", "6"}
    for each in found.ratios:
        assert (each.below, each.parts) == (0, False)
        assert each.smallest is not None
        assert each.largest is not None
        assert 1 <= each.smallest <= each.largest < 1 + 1e-6  # all maps of this network have a small side


def test_lanczos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upper, "EXACT_SIDE", 0)
    found = _compared(trained("clipped_relu"), digits(4)[0], 60)
    assert {each.method for each in found.ratios} == {"Lanczos"}
    assert found.refutations == []
    assert all(each.largest is not None and each.largest < 1.3 for each in found.ratios)


def test_parts_of_layers_that_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "LARGEST_MATRIX", 10**4)
    monkeypatch.setattr(dense, "LARGEST_WORK", 10**5)
    found = _compared(trained("clipped_relu"), digits(20)[0], 100, side=30)
    assert {each.layer for each in found.ratios if each.parts} == {"1", "3", "6"}
    assert found.refutations == []


def test_residual_networks() -> None:
    found = _compared(network("residual", "relu"), images(4), 100)
    assert found.compared >= 100
    assert found.refutations == []
    assert {each.kind for each in found.ratios} == {"residual sum"}


def test_too_few_images() -> None:
    found = _compared(trained("clipped_relu"), digits(1)[0])
    assert found.asked == 210
    assert 0 < found.compared < 210


def test_none_wanted() -> None:
    assert _compared(trained("clipped_relu"), digits(1)[0], 0).ratios == ()


@pytest.mark.parametrize("factor", [0.5, 1 - 1e-7])
@pytest.mark.parametrize("kind", ["local_norms", "global_norm"])
def test_bounds_that_are_too_small(monkeypatch: pytest.MonkeyPatch, kind: str, factor: float) -> None:
    correct = getattr(UpperNorms, kind)
    monkeypatch.setattr(UpperNorms, kind, lambda *arguments: correct(*arguments) * factor)
    found = _compared(trained("clipped_relu"), digits(4)[0], 20)
    assert len(found.refutations) == 3
    assert "layer '1' (Conv2d)" in found.refutations[0]
    assert "lie below the exact norm" in found.refutations[0]


def test_a_bound_that_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    correct = UpperNorms.local_norms
    monkeypatch.setattr(UpperNorms, "local_norms", lambda *arguments: torch.full_like(correct(*arguments), torch.nan))
    assert len(_compared(trained("clipped_relu"), digits(4)[0], 20).refutations) == 3
