"""Layers of one's own: one row of a table serves forward bounds, backward bounds, training and certificates."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lipcert
from lipcert.bounds import Bound, analyze, lipschitz_to_logits
from lipcert.crown import Ball, Effort, Rows, bounded, proved_state, refined, split_activations
from lipcert.graph import (
    Clamp,
    Permutation,
    Shape,
    UnsupportedLayerError,
    activations,
    compile_graph,
    operator,
    register_activation,
    register_affine,
    scaling,
)
from lipcert.graph.operators import reshape
from lipcert.losses import BCP, Setting, Sparsity
from lipcert.nn import Residual
from lipcert.norms import PowerNorms
from tests.networks import IMAGE, images
from tests.oracles import ExactNorms, points_in_ball, scale_weights

EPSILON = 0.15


class _Tiles(nn.Module):
    """Moves each square of pixels into channels."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, inputs: Tensor) -> Tensor:
        return F.pixel_unshuffle(inputs, self.side)


class _Band(nn.Module):
    """Clamps between two numbers."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.clamp(self.low, self.high)


def _tiles(layer: _Tiles, shape: Shape) -> Permutation:
    side, (channels, height, width) = layer.side, shape
    return Permutation(shape, (channels * side**2, height // side, width // side), layer, nn.PixelShuffle(side))


@pytest.fixture(autouse=True)
def fixture_tables() -> Iterator[None]:
    """Leave the tables as they were; that of `singledispatch` can only be reached through its read-only view."""
    rows = dict(activations.MAKERS)
    (table,) = gc.get_referents(operator.registry)
    before = dict(table)
    yield
    activations.MAKERS.clear()
    activations.MAKERS.update(rows)
    table.clear()
    table.update(before)
    operator._clear_cache()


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    block = Residual(nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1), _Band(-0.5, 0.3), nn.Conv2d(16, 16, 1)))
    model = nn.Sequential(
        *(nn.Conv2d(2, 4, 3, 1, 1), _Band(-0.1, 0.2), _Tiles(2), block),
        *(_Band(-0.2, 0.2), nn.Flatten(), nn.Linear(144, 8), nn.ReLU(), nn.Linear(8, 3)),
    )
    return scale_weights(model, 1.4).double().eval()  # type: ignore[return-value]


def _register() -> None:
    register_affine(_Tiles, _tiles)
    register_activation(_Band, lambda layer, shape: Clamp(layer.low, layer.high))


def _inputs_of_activations(model: nn.Sequential, points: Tensor) -> list[Tensor]:
    """Return what reaches each activation, in order."""
    first = model[0](points)
    unshuffled = model[2](model[1](first))
    block = model[3].branch[0](unshuffled)  # type: ignore[union-attr, index, operator]
    behind = model[3](unshuffled)
    return [first, block, behind, model[4:7](behind)]


def test_refused_before() -> None:
    for layer in (nn.Sequential(nn.Conv2d(2, 4, 3, 1, 1), _Tiles(2)), _Band(-1.0, 1.0)):
        with pytest.raises(UnsupportedLayerError, match=r"_Tiles|_Band"):
            compile_graph(layer, IMAGE)


@pytest.mark.parametrize("bound", Bound)
def test_sampled_points_stay_inside_forward_bounds(bound: Bound) -> None:
    _register()
    model, inputs, norms = _model(), images(3), ExactNorms()
    with torch.no_grad():
        logits = model(inputs)
        analysis = analyze(model, inputs, EPSILON, bound, norms, output_box=True)
        torch.testing.assert_close(analysis.logits, logits)
        lipschitz = lipschitz_to_logits(analysis, norms)
        lower, upper = analysis.region.box()
        assert [each.name for each in analysis.activations] == ["1", "3.branch.1", "4", "7"]
        for points in points_in_ball(inputs, EPSILON, 100):
            for bounds, values in zip(analysis.activations, _inputs_of_activations(model, points), strict=True):
                assert ((bounds.lower - 1e-9 <= values) & (values <= bounds.upper + 1e-9)).all()
                after = bounds.layer(values)
                assert ((bounds.output_box()[0] - 1e-9 <= after) & (after <= bounds.output_box()[1] + 1e-9)).all()
            moved = model(points)
            assert ((lower - 1e-9 <= moved) & (moved <= upper + 1e-9)).all()
            distance = (points - inputs).flatten(1).norm(dim=1)
            assert ((moved - logits).norm(dim=1) <= lipschitz * distance * (1 + 1e-9)).all()


def test_masks_see_the_thresholds() -> None:
    """Otherwise the rows would be as good as no masks at all."""
    _register()
    model, inputs, norms = _model(), images(3), ExactNorms()
    with torch.no_grad():
        tight, whole = (analyze(model, inputs, EPSILON, bound, norms).lipschitz for bound in ("tight", "global"))
    assert (tight < 0.95 * whole).all()


def test_sampled_points_stay_above_backward_bounds() -> None:
    _register()
    model, inputs = _model().requires_grad_(False), images(2)
    graph, ball = compile_graph(model, IMAGE), Ball(inputs, torch.full((2,), EPSILON, dtype=torch.float64))
    known = analyze(graph, inputs, EPSILON, "tight", ExactNorms())
    backward = split_activations(graph)
    state, ball = proved_state(backward, known.activations, ball)
    state = refined(backward, state, ball, 10**6)
    image, other = torch.tensor([0, 0, 1, 1]), torch.tensor([1, 2, 1, 2])
    units = torch.eye(3, dtype=torch.float64)
    found = bounded(backward, Rows.of(units[:1] - units[other], image), state, ball, Effort(5))
    for points in points_in_ball(inputs, EPSILON, 200):
        logits = model(points)
        margins = logits[image, 0] - logits[image, other]
        assert (ball.certain(found) <= margins).all()
        assert ((found.coefficients * points[image]).flatten(1).sum(dim=1) + found.constant <= margins + 1e-9).all()
        before = _inputs_of_activations(model, points)
        for bend, values in zip(backward.activations, before, strict=True):
            lower, upper = state.boxes[bend.index]
            assert ((lower - 1e-9 <= values) & (values <= upper + 1e-9)).all()
    assert (ball.certain(found) > -10).all()


@pytest.mark.parametrize("bound", [Bound.LOCAL, Bound.TIGHT])
def test_training_lowers_the_loss(bound: Bound) -> None:
    _register()
    model, inputs = _model(), images(8)
    labels = torch.arange(8) % 3
    setting = partial(Setting, 0.05, 1.0, bound, PowerNorms(3), Sparsity())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = BCP()(model, inputs, labels, setting()).loss
        loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_certificates() -> None:
    _register()
    model, inputs = _model(), images(4)
    labels = model(inputs).argmax(dim=1)
    certified = lipcert.certify(model, inputs, labels, 0.01).certified
    assert certified.any()
    for points in points_in_ball(inputs, 0.01, 100):
        assert (model(points).argmax(dim=1) == labels)[certified].all()


class _Halved(nn.Module):
    """A layer of one's own."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs / 2


class _Louder(nn.Module):
    def __call__(self, *inputs: Tensor) -> Tensor:
        return 1000 * super().__call__(*inputs)


class _Plain(_Halved):
    pass


class _Loud(_Halved, _Louder):
    pass


def test_registered_layers_are_held_to_what_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    register_affine(_Halved, lambda layer, shape: scaling(shape, torch.full((1, 1), 0.5, dtype=torch.float64)))
    register_activation(_Band, lambda layer, shape: Clamp(layer.low, layer.high))
    torch.manual_seed(0)

    def network(layer: nn.Module) -> nn.Sequential:
        return nn.Sequential(nn.Linear(3, 3), layer, _Band(-0.1, 0.1), nn.Linear(3, 2)).eval()

    image = torch.rand(1, 3)
    for layer in (_Halved(), _Plain()):
        lipcert.certify(network(layer), image, torch.tensor([0]), 0.01)
    with pytest.raises(UnsupportedLayerError, match=r"'1' \(_Loud\) has a `__call__`"):
        lipcert.certify(network(_Loud()), image, torch.tensor([0]), 0.01)
    for kind, name in ((_Halved, "'1'"), (_Band, "'2'")):
        with monkeypatch.context() as patched:
            patched.setattr(kind, "forward", lambda layer, inputs: 1000 * inputs)
            with pytest.raises(UnsupportedLayerError, match=f"{name}.*was replaced"):
                lipcert.certify(network(_Halved()), image, torch.tensor([0]), 0.01)
    lipcert.certify(network(_Halved()), image, torch.tensor([0]), 0.01)


class _Squeezed(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.squeeze()


def test_registered_layers_whose_bounds_are_of_another_shape() -> None:
    """Written for inputs without dimensions of size 1, the batch among them."""
    register_affine(_Squeezed, lambda layer, shape: reshape(shape, shape))
    with pytest.raises(UnsupportedLayerError, match=r"'0'.*makes \(3, 6\) of \(1, 3, 6\)"):
        compile_graph(nn.Sequential(_Squeezed()), (3, 6))
