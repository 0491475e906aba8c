"""Predictors: no radius is above what is exact or what points within it show; what is not known is not proved."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lipcert
from lipcert.certificates import CertifiedPredictor
from lipcert.nn.almost_orthogonal import parametrize_almost_orthogonal
from tests.networks import IMAGE, images, network

PIXELS = images(24).float()


def _network(name: str, kind: str = "relu") -> nn.Module:
    return network(name, kind, scale=1.5).float()


def _linear(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(72, 5)).to(dtype).eval()


def _exact(model: nn.Sequential, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return the classes of a linear network and how far the nearest other class is, in float64."""
    weight, bias = (each.detach().double() for each in (model[1].weight, model[1].bias))
    logits = points.double().flatten(1) @ weight.T + bias
    label = logits.argmax(dim=1)
    lengths = (weight[label].unsqueeze(1) - weight).norm(dim=2)
    distances = (logits.gather(1, label.unsqueeze(1)) - logits) / lengths
    return label, distances.scatter(1, label.unsqueeze(1), torch.inf).amin(dim=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_radius_of_a_linear_network_is_the_distance_to_the_nearest_class(dtype: torch.dtype) -> None:
    model, points = _linear(dtype), images(200).to(dtype)
    label, distance = _exact(model, points)
    prediction = CertifiedPredictor(model, IMAGE, epsilon=float(distance.median()))(points)
    assert torch.equal(prediction.label, label)
    assert bool((prediction.radius <= distance).all())
    assert bool((prediction.radius >= distance - (3e-4 if dtype == torch.float32 else 1e-7)).all())
    assert torch.equal(prediction.certified, prediction.radius >= float(distance.median()))
    assert 0.4 < prediction.certified.double().mean() < 0.6
    capped = CertifiedPredictor(model, IMAGE, largest=float(distance.median()))(points)
    assert float(capped.radius.max()) == float(distance.median())


@pytest.mark.parametrize(("name", "kind"), [("plain", "clipped_relu"), ("pooled", "maxmin"), ("residual", "relu")])
@pytest.mark.parametrize("bound", ["global", "global_liplt"])
def test_points_within_the_radius_keep_the_class(name: str, kind: str, bound: str) -> None:
    model = _network(name, kind)
    predictor = CertifiedPredictor(model, IMAGE, bound=bound)
    label, radius, certified = predictor(PIXELS)
    assert torch.equal(label, model(PIXELS).argmax(dim=1))
    assert bool((radius > 0).any())
    assert torch.equal(certified, radius > 0)
    points = PIXELS.clone().requires_grad_()
    for _ in range(6):
        logits = model(points)
        own = logits.gather(1, label.unsqueeze(1))[:, 0]
        lead = own - logits.scatter(1, label.unsqueeze(1), -torch.inf).amax(dim=1)
        (gradient,) = torch.autograd.grad(lead.sum(), points)
        moved = (points.detach() - PIXELS - gradient).flatten(1).double()
        moved = moved / moved.norm(dim=1, keepdim=True) * radius.unsqueeze(1)
        points = (PIXELS.double() + moved.view_as(PIXELS)).float().requires_grad_()
        assert torch.equal(model(points).argmax(dim=1)[certified], label[certified])
    with_boxes = lipcert.certified_radius(model.double(), PIXELS[:6].double(), label[:6], bound, rounds=14)
    assert bool((radius[:6] <= with_boxes + 10 / 2**14).all())


def test_tighter_radii_are_never_smaller() -> None:
    predictor = CertifiedPredictor(_network("plain", "clipped_relu"), IMAGE, epsilon=0.02)
    quick, tighter = predictor(PIXELS), predictor.tighter(PIXELS, "tight", rounds=6)
    assert torch.equal(quick.label, tighter.label)
    assert bool((tighter.radius >= quick.radius).all())
    assert bool((tighter.radius > quick.radius).any())
    assert torch.equal(tighter.certified, tighter.radius >= 0.02)


def test_nothing_is_proved_of_ties_of_nan_and_of_what_is_no_image() -> None:
    model = _linear()
    points = PIXELS[:5].clone()
    points[1, 0, 0, 0], points[2], points[3], points[4] = torch.nan, 2.0, torch.inf, -1.0
    assert CertifiedPredictor(model, IMAGE)(points).certified.tolist() == [True, False, False, False, False]
    with torch.no_grad():
        model[1].weight[1:] = model[1].weight[0]
        model[1].bias[1:] = model[1].bias[0]
    assert not CertifiedPredictor(model, IMAGE)(PIXELS).certified.any()


def test_what_rounding_may_change_is_not_proved() -> None:
    """A lead of 1 beside logits of 1e9 is less than what they are rounded by."""
    model = _linear()
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([1e9, 1e9 + 64, 0, 0, 0]))
    prediction = CertifiedPredictor(model, IMAGE)(PIXELS)
    assert prediction.label.unique().tolist() == [1]
    assert not prediction.certified.any()


@pytest.mark.parametrize("name", ["pooled"])
def test_it_works_when_it_was_compiled(name: str) -> None:
    predictor = CertifiedPredictor(_network(name, "maxmin"), IMAGE)
    compiled = torch.compile(predictor, fullgraph=True, backend="aot_eager")
    for ours, theirs in zip(predictor(PIXELS), compiled(PIXELS), strict=True):
        assert torch.equal(ours, theirs)
    switch = torch.backends.mkldnn.matmul
    before, switch.fp32_precision = switch.fp32_precision, "bf16"
    try:
        for each in (predictor, compiled):
            with pytest.raises(ValueError, match=r"mkldnn.matmul.fp32_precision is 'bf16'"):
                each(PIXELS)
    finally:
        switch.fp32_precision = before


def test_its_network_is_a_copy_in_eval_mode() -> None:
    model = nn.Sequential(nn.Dropout(0.5), *_linear())
    parametrize_almost_orthogonal(model)
    predictor = CertifiedPredictor(model.eval(), IMAGE).train()
    before = predictor(PIXELS)
    with torch.no_grad():
        model[2].parametrizations.weight.original.mul_(-3)  # type: ignore[union-attr, operator]
    assert all(map(torch.equal, before, predictor(PIXELS)))
    assert not any(each.requires_grad for each in predictor.parameters())
    restored = CertifiedPredictor(_linear(), IMAGE)
    loaded = {name.replace("model.2.", "model.1."): each for name, each in predictor.state_dict().items()}
    restored.load_state_dict(loaded)
    assert all(map(torch.equal, before, restored(PIXELS)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"bound": "tight"}, "global or global_liplt.*tighter"),
        ({"epsilon": 0.0}, "epsilon.*> 0"),
        ({"largest": -1.0}, "largest.*> 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CertifiedPredictor(_linear(), IMAGE, **arguments)


def test_images_of_another_kind_are_refused() -> None:
    predictor = CertifiedPredictor(_linear(), IMAGE)
    with pytest.raises(ValueError, match=r"\(B, 2, 6, 6\) in torch.float32, got .*\(24, 8, 3, 3\)"):
        predictor(PIXELS.view(-1, 8, 3, 3))
    with pytest.raises(ValueError, match=r"in torch.float32, got .* in torch.float64"):
        predictor.double()(PIXELS.double())
