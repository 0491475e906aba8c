"""A training step leaves no cycles of tensors behind: those would stay until Python happens to look for cycles."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch

from lipcert.bounds import Bound, Economy, PowerNorms
from lipcert.losses import BCP, Setting, Sparsity
from tests.networks import images, network


@pytest.fixture(name="cycles")
def fixture_cycles() -> Iterator[None]:
    """Keep what is only reachable from cycles for a look at it."""
    gc.collect()
    gc.disable()
    yield
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


@pytest.mark.usefixtures("cycles")
@pytest.mark.parametrize("economy", [0, 20])
@pytest.mark.parametrize("bound", Bound)
@pytest.mark.parametrize("kind", ["clipped_relu", "maxmin", "clipped_maxmin"])
@pytest.mark.parametrize("name", ["plain", "residual"])
def test_a_step_leaves_no_tensors_in_cycles(name: str, kind: str, bound: Bound, economy: int) -> None:
    model, batch = network(name, kind), images(4)
    labels = torch.zeros(len(batch), dtype=torch.long)
    setting = Setting(0.1, 0.5, bound, PowerNorms(1), Sparsity(), False, Economy(economy) if economy else None)
    BCP()(model, batch, labels, setting).loss.backward()
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    left = [each for each in gc.garbage if isinstance(each, torch.Tensor)]
    assert [tuple(each.shape) for each in left] == []
