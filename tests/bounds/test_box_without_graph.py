"""Box passes without a graph: their gradient is that of fixed shares of the ball's deviation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lipcert.bounds import Region, analyze, worst_logits
from lipcert.bounds.region import Source, opened, through_affine
from lipcert.graph import operator
from lipcert.nn import ClippedReLU
from lipcert.norms import PowerNorms
from tests.networks import images, network


def _behind_a_clip(layer: nn.Linear, center: Tensor, lipschitz: Tensor, half: Tensor) -> Region:
    """Return what a layer makes of a box of half width `half` inside a ball of radius `lipschitz`."""
    box, one = (center - half, center + half), torch.ones(1, dtype=center.dtype)
    term = opened(Source(0, center, box, lipschitz, lipschitz, one))
    region = Region(center, box, {(0, False): term}, None, one)
    return through_affine(region, operator(layer, (center.shape[1],)), box_gradients=False)


def _estimates() -> PowerNorms:
    torch.manual_seed(0)
    return PowerNorms(2)


def test_gradient_is_that_of_fixed_shares() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 5).double()
    center, half = torch.randn(3, 6).double(), torch.rand(3, 6).double()
    half[:, 3:] *= 0.01  # clipping left little of these
    lipschitz = torch.tensor([0.4], dtype=torch.float64, requires_grad=True)
    region = _behind_a_clip(layer, center, lipschitz, half)
    values = layer(center)
    deviation = layer.weight.norm(dim=1) * lipschitz
    reach = half @ layer.weight.abs().T
    expected = torch.minimum(reach, deviation)
    lower, upper = region.box()
    torch.testing.assert_close(lower, values - expected)
    torch.testing.assert_close(upper, values + expected)
    assert (reach < deviation).any()
    assert (reach > deviation).any()
    weights = torch.randn(2, 3, 5).double()
    share = (expected / deviation).detach()
    by_hand = (weights[0] * (values - share * deviation) + weights[1] * (values + share * deviation)).sum()
    found = (weights[0] * lower + weights[1] * upper).sum()
    inputs = (layer.weight, layer.bias, lipschitz)
    for ours, theirs in zip(torch.autograd.grad(found, inputs), torch.autograd.grad(by_hand, inputs), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_thresholds_still_learn_from_boxes() -> None:
    """A threshold that cuts a box moves the box of its own activation."""
    model = nn.Sequential(nn.Linear(4, 4), ClippedReLU((4,), 0.1), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    analysis = analyze(model, torch.rand(5, 4).double(), 2.0, "local", PowerNorms(2), box_gradients=False)
    analysis.activations[0].output_box()[1].sum().backward()
    gradient = model[1].threshold.grad
    assert gradient is not None
    assert (gradient > 0).any()


@pytest.mark.parametrize(("kind", "activation"), [("plain", "clipped_relu"), ("plain", "maxmin"), ("residual", "relu")])
def test_boxes_that_nobody_is_given_change_no_gradient_and_keep_nothing(kind: str, activation: str) -> None:
    model, batch = network(kind, activation).requires_grad_(), images(4)
    found, kept = [], []
    for activation_boxes in (True, False):
        model.zero_grad()
        saved: dict[int, int] = {}

        def note(tensor: Tensor, saved: dict[int, int] = saved) -> Tensor:
            storage = tensor.untyped_storage()
            saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        settings = {"box_gradients": False, "activation_boxes": activation_boxes}
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            analysis = analyze(model, batch, 0.5, "global", _estimates(), **settings)
            worst = worst_logits(analysis, torch.zeros(4, dtype=torch.long))
        assert all((bounds.box is None) is not activation_boxes for bounds in analysis.activations)
        worst.square().sum().backward()
        found.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
        kept.append(sum(saved.values()))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))
    assert kept[1] < kept[0] or kind == "residual"  # whose balls are not known
