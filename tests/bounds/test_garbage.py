"""A training step leaves no cycles of tensors behind: those would stay until Python happens to look for cycles."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from lipcert.bounds import Bound, measure_plan
from lipcert.graph import compile_graph
from lipcert.losses import BCP, Setting, Sparsity
from lipcert.norms import PowerNorms
from tests.networks import images, network
from tests.pairwise import pairwise


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
@pairwise(
    name=["plain", "residual"],
    kind=["clipped_relu", "maxmin", "clipped_maxmin"],
    bound=Bound,
    planned=[False, True],
    box_gradients=[False, True],
)
def test_a_step_leaves_no_tensors_in_cycles(
    name: str, kind: str, bound: Bound, planned: bool, box_gradients: bool
) -> None:
    model, batch, norms = network(name, kind), images(4), PowerNorms(1)
    labels = torch.zeros(len(batch), dtype=torch.long)
    setting = Setting(0.1, 0.5, bound, norms, Sparsity(), box_gradients=box_gradients)
    if planned:
        graph = compile_graph(model, batch.shape[1:])
        setting = replace(setting, graph=graph, plan=measure_plan(graph, batch, 0.1, bound, norms, threshold=2.0))
    BCP()(model, batch, labels, setting).loss.backward()
    del setting
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    left = [each for each in gc.garbage if isinstance(each, torch.Tensor)]
    assert [tuple(each.shape) for each in left] == []
