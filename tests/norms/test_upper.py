"""Norms that certificates rest on: what is counted, what is kept for which weights, what stands in for local ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lipcert.bounds import analyze
from lipcert.graph import NonFiniteBoundError, compile_graph
from lipcert.norms import UpperNorms, upper
from tests.networks import images, network
from tests.norms.maps import dense_map, key, map_of


def _matrix(rows: int = 150, columns: int = 160, seed: int = 1) -> Tensor:
    """Return a matrix whose norm is not exact by default: both sides are long."""
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(name="no_exact_norms")
def fixture_no_exact_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bound every norm by Lanczos, which counts."""
    monkeypatch.setattr(upper, "EXACT_SIDE", 0)
    monkeypatch.setattr(upper, "EXACT_SIDE_PER_IMAGE", 0)


def test_norms_that_may_fail_count_for_the_union_bound_and_global_ones_are_kept() -> None:
    norms = UpperNorms(steps=10, failure_probability=1e-6, generator=np.random.default_rng(0))
    large = dense_map(_matrix())
    first = norms.global_norm(key(graph=0), large)
    assert torch.equal(first, norms.global_norm(key(graph=0), large))
    assert norms.bounded == 1
    norms.local_norms(key(graph=0), large, torch.eye(7, 150).double(), None)
    assert norms.bounded == 8
    assert norms.union_failure_probability == pytest.approx(8e-6)
    norms.local_norms(key("small", graph=0, target=2), dense_map(_matrix(5)), None, None)
    assert norms.bounded == 8  # exact


def test_where_everything_varies_the_global_norm_serves() -> None:
    large = dense_map(_matrix())
    norms = UpperNorms(steps=10, smallest_share=0.02)
    whole = norms.global_norm(key(graph=0), large)
    rows = torch.ones(3, 150, dtype=torch.float64)
    rows[1, :2], rows[2, :3] = 0, 0  # less and more than 2 % constant
    assert torch.equal(norms.local_norms(key(graph=0), large, None, None), whole)
    assert norms.bounded == 1
    found = norms.local_norms(key(graph=0), large, rows, torch.ones(3, 160).double())
    assert norms.bounded == 2
    assert torch.equal(found[:2], whole.expand(2))
    assert found[2] <= whole
    sharp = norms.with_steps(10)
    again = sharp.local_norms(key(graph=0), large, rows, None)
    assert norms.bounded == sharp.bounded == 4
    assert again[0] == whole
    true = torch.linalg.matrix_norm(rows[:, :, None] * _matrix(), 2)
    assert (torch.minimum(found, again) >= true).all()


def test_another_map_of_the_same_name_and_shape_is_bounded_itself() -> None:
    norms = UpperNorms(steps=60)
    norms.global_norm(key(), dense_map(_matrix()))
    for other in (10 * _matrix(), _matrix() + torch.eye(150, 160)):
        assert norms.local_norms(key(), dense_map(other), None, None).item() >= torch.linalg.matrix_norm(other, 2)
    assert norms.bounded == 3


@pytest.mark.parametrize("field", ["graph", "source", "target"])
def test_what_tells_two_maps_apart(field: str) -> None:
    norms = UpperNorms(steps=60)
    small = norms.global_norm(key(graph=0), dense_map(_matrix()))
    large = norms.global_norm(key(**{"graph": 0, field: 9}), dense_map(10 * _matrix()))
    torch.testing.assert_close(large, 10 * small, rtol=1e-3, atol=0)
    assert torch.equal(norms.global_norm(key("another name", graph=0), dense_map(10 * _matrix())), small)


def test_one_convolution_has_another_norm_on_larger_images() -> None:
    norms = UpperNorms()
    layer = nn.Conv2d(1, 1, 4, 2, 1).double()
    kept = [
        norms.global_norm(key(graph=number), map_of(layer, shape)).item()
        for number, shape in enumerate(((1, 4, 4), (1, 9, 9)))
    ]
    assert kept[0] != kept[1]


@pytest.mark.usefixtures("no_exact_norms")
def test_norms_are_kept_for_frozen_graphs_alone() -> None:
    model, batch, norms = network("plain", "clipped_relu"), images(2), UpperNorms(steps=20)
    graph = compile_graph(model, batch.shape[1:])
    counts = []
    for each in (graph, graph, graph.frozen()):
        for _ in range(2):
            before = norms.bounded
            with torch.no_grad():
                analyze(each, batch, 0.1, "global", norms)
            counts.append(norms.bounded - before)
    assert counts == [3, 3, 3, 3, 3, 0]


@pytest.mark.usefixtures("no_exact_norms")
def test_altered_weights_of_a_graph_without_a_key_have_norms_of_their_own() -> None:
    model, batch, norms = network("plain", "clipped_relu"), images(2), UpperNorms(steps=40)
    graph = compile_graph(model, batch.shape[1:])
    with torch.no_grad():
        before = analyze(graph, batch, 0.1, "global", norms).lipschitz
        model[2].weight.mul_(3)
        after = analyze(graph, batch, 0.1, "global", norms).lipschitz
    torch.testing.assert_close(after, 3 * before, rtol=1e-3, atol=0)


@pytest.mark.usefixtures("no_exact_norms")
def test_graphs_do_not_share_norms() -> None:
    """Two models of one architecture, as a certifier that is given a second model meets them."""
    batch, norms = images(2), UpperNorms(steps=40)
    first, second = network("plain", "clipped_relu"), network("plain", "clipped_relu", scale=1.6)
    constants = []
    for model in (first, second):
        graph = compile_graph(model, batch.shape[1:]).frozen()
        with torch.no_grad():
            constants.append(analyze(graph, batch, 0.1, "global", norms).lipschitz.item())
    assert constants[1] == pytest.approx(2**3 * constants[0], rel=1e-3)


def test_kept_brackets_hold_the_norms() -> None:
    model, batch, norms = network("plain", "relu"), images(2), UpperNorms()
    graph = compile_graph(model, batch.shape[1:]).frozen()
    assert norms.brackets(graph) == {}
    with torch.no_grad():
        analyze(graph, batch, 0.1, "tight", norms)
    brackets = norms.brackets(graph)
    assert list(brackets) == ["1", "3", "6"]
    assert norms.brackets(graph.frozen()) == {}
    true = torch.linalg.matrix_norm(model[5].weight, 2).item()
    lower, upper = brackets["6"]
    assert lower <= true <= upper <= lower * (1 + 1e-6)


def test_layers_that_bring_back_what_vanished_are_refused() -> None:
    """Nine factors of 1e-37 vanish in float64, eight of 1e37 bring the product back to 1e-37."""

    def chain(factors: list[float]) -> nn.Sequential:
        layers = [nn.Linear(3, 3, bias=False).double().requires_grad_(False) for _ in factors]
        for layer, factor in zip(layers, factors, strict=True):
            layer.weight.copy_(factor * torch.eye(3, dtype=torch.float64))
        return nn.Sequential(*layers, nn.ReLU(), nn.Linear(3, 2).double().requires_grad_(False)).eval()

    batch = torch.rand(2, 3, dtype=torch.float64)
    for factors in ([1e-37] * 9 + [1e37] * 8, [1e37] * 8 + [1e-37] * 9, [1e-37] * 9 + [1.0] + [1e37] * 8):
        with pytest.raises(NonFiniteBoundError, match="layers in a row"):
            analyze(chain(factors), batch, 0.1, "global", UpperNorms())
    bounds = analyze(chain([1e-5] * 9 + [1e5] * 8), batch, 0.1, "global", UpperNorms()).activations[0]
    assert 0.9999e-5 <= bounds.whole_norm.item() <= 1.01e-5


def test_norms_of_near_isometries_are_bounded_once_more() -> None:
    """Where all singular values are about 1, Lanczos converges slowly; the second try counts as one that may fail."""
    matrix = nn.init.orthogonal_(torch.empty(300, 400).double()) * torch.linspace(0.99, 1, 300).double()[:, None]
    whole, linear_map = torch.linalg.matrix_norm(matrix, 2), dense_map(matrix)
    coarse, fine = (UpperNorms(10, width=width, generator=np.random.default_rng(0)) for width in (math.inf, 1e-4))
    widths = [float(norms.bracket(key(graph=7), linear_map).upper / whole) - 1 for norms in (coarse, fine)]
    assert 0 <= widths[1] < widths[0] / 3
    assert (coarse.bounded, fine.bounded) == (1, 2)
    assert float(fine.bracket(key(graph=7), linear_map).lower) <= float(whole) * (1 + 1e-12)
