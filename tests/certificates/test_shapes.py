"""Shapes and numbers at the edges: single logits, thresholds of rows, an epsilon an image, constants that underflow."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import nn

import lipcert
from lipcert.attacks import pgd
from lipcert.bounds import analyze
from lipcert.certificates import Cascade, Certifier, Float64Model, certify_batches
from lipcert.graph import NonFiniteBoundError
from lipcert.nn import ClippedMaxMin, ClippedReLU
from lipcert.norms import UpperNorms

IMAGES = torch.tensor([[0.9, 0.1], [0.2, 0.7], [0.5, 0.4]])


def linear(*rows: list[float], dtype: torch.dtype = torch.float32) -> nn.Linear:
    """Return a layer with these rows of weights, and zeros for biases."""
    layer = nn.Linear(len(rows[0]), len(rows), dtype=dtype)
    layer.weight.data, layer.bias.data = torch.tensor(rows, dtype=dtype), torch.zeros(len(rows), dtype=dtype)
    return layer


def _classifier() -> nn.Sequential:
    return nn.Sequential(linear([1.0, 0.0], [0.0, 1.0]), nn.ReLU(), linear([1.0, 0.0], [0.0, 1.0])).eval()


LABELS = torch.tensor([0, 1, 0])


def test_the_sign_of_a_single_logit_is_refused_with_a_way_out() -> None:
    model = nn.Sequential(linear([1.0, -1.0])).eval()
    with pytest.raises(ValueError, match=r"two at least, got 1.*yields 0 and z"):
        lipcert.certify(model, IMAGES, torch.zeros(3, dtype=torch.int64), 0.1)
    with pytest.raises(ValueError, match="two at least"):
        lipcert.certified_radius(model, IMAGES, torch.zeros(3, dtype=torch.int64), "global")
    assert lipcert.local_lipschitz(model, IMAGES, 0.1).min() >= 2**0.5  # no class is needed
    both = nn.Sequential(model, linear([0.0], [1.0]))
    signs = (model(IMAGES)[:, 0] > 0).long()
    assert lipcert.certify(both, IMAGES, signs, 0.01).certified.all()


def _thresholds_of_rows(layer: nn.Module, names: tuple[str, ...]) -> nn.Module:
    for name in names:
        own = getattr(layer, name)
        setattr(layer, name, nn.Parameter(torch.cat((own, own + 1))))
    return layer


@pytest.mark.parametrize(
    "layer",
    [
        _thresholds_of_rows(ClippedReLU((2,)), ("threshold",)),
        _thresholds_of_rows(ClippedMaxMin((2,)), ("max",)),
        _thresholds_of_rows(ClippedMaxMin((2,)), ("min",)),
    ],
)
def test_thresholds_of_rows_are_refused_by_name(layer: nn.Module) -> None:
    model = nn.Sequential(layer, linear([1.0, 0.0], [0.0, 1.0])).eval()
    with pytest.raises(lipcert.UnsupportedLayerError, match=r"Layer '0'.*same for every image"):
        lipcert.certify(model, IMAGES[:2], LABELS[:2], 0.01)


Call = Callable[[Any], Any]

ONE_AN_IMAGE: dict[str, Call] = {
    "certify": lambda epsilon: lipcert.certify(_classifier(), IMAGES, LABELS, epsilon, batch_size=2),
    "certify, one bound": lambda epsilon: lipcert.certify(_classifier(), IMAGES, LABELS, epsilon, "tight"),
    "certify_batches": lambda epsilon: certify_batches(
        Certifier(Float64Model(_classifier())), IMAGES, LABELS, epsilon, 1
    ),
    "Certifier": lambda epsilon: Certifier(Float64Model(_classifier()))(IMAGES, LABELS, epsilon),
    "Cascade": lambda epsilon: Cascade(_classifier())(IMAGES, LABELS, epsilon),
    "local_lipschitz": lambda epsilon: lipcert.local_lipschitz(_classifier(), IMAGES, epsilon, batch_size=2),
    "analyze": lambda epsilon: analyze(_classifier().double(), IMAGES.double(), epsilon, "global", UpperNorms()),
}

ONE: dict[str, Call] = {
    "certified_radius": lambda largest: lipcert.certified_radius(_classifier(), IMAGES, LABELS, "global", largest),
    "pgd": lambda epsilon: pgd(_classifier(), IMAGES, LABELS, epsilon, steps=1),
}


@pytest.mark.parametrize("name", ONE_AN_IMAGE)
def test_one_epsilon_an_image_or_one_for_all(name: str) -> None:
    call = ONE_AN_IMAGE[name]
    for epsilon in (0.05, torch.tensor(0.05), torch.tensor([0.05, 0.1, 0.2])):
        call(epsilon)
    for wrong in (torch.tensor([0.05, 0.1]), torch.full((4,), 0.1)):
        with pytest.raises(ValueError, match=r"[Oo]ne.*epsilon|`epsilon` as one number, or one an image"):
            call(wrong)


@pytest.mark.parametrize("name", [*(each for each in ONE_AN_IMAGE if each != "analyze"), *ONE])
def test_other_epsilons_are_refused_in_a_sentence(name: str) -> None:
    call = (ONE_AN_IMAGE | ONE)[name]
    for wrong in (torch.full((3, 1), 0.1), torch.tensor([0.1, torch.nan, 0.1]), torch.zeros(3), 0.0, -1.0):
        with pytest.raises(ValueError, match=r"Expected `(epsilon|largest)`"):
            call(wrong)
    with pytest.raises((TypeError, ValueError), match=r"Expected (`(epsilon|largest)` as a number|at least one `eps)"):
        call([0.1, 0.1, 0.1])  # several at a time are no epsilon each


def test_each_image_is_certified_at_its_own_epsilon() -> None:
    radii = torch.tensor([0.5, 0.3, 0.1])
    certificate = ONE_AN_IMAGE["certify"](radii)
    assert certificate.certified.tolist() == [True, True, False]  # distances: 0.8, 0.5 and 0.1 over the root of 2
    assert certificate.epsilon is radii
    local = ONE_AN_IMAGE["local_lipschitz"](radii)
    assert torch.equal(local, ONE_AN_IMAGE["local_lipschitz"](0.5).clamp_max(local))


def _through_the_range(smallest: float, largest: float, times: int, dtype: torch.dtype) -> tuple[nn.Sequential, float]:
    """Return a network whose slope where its units are on is about 1, and that slope."""
    values = [smallest] * times + [largest] * times
    layers = [layer for value in values for layer in (linear([value], dtype=dtype), nn.ReLU())]
    model = nn.Sequential(*layers, linear([1.0], [0.0], dtype=dtype)).eval()
    exact, weights = 1.0, [torch.tensor(value, dtype=dtype).double().item() for value in (smallest, largest)]
    for _ in range(times):
        exact *= weights[0] * weights[1]
    return model, exact


@pytest.mark.parametrize("bound", ["global", "local", "tight", "linear_split", "liplt", "global_liplt"])
@pytest.mark.parametrize(("smallest", "times", "dtype"), [(1e-37, 9, torch.float32), (1e-59, 6, torch.float64)])
def test_constants_whose_product_underflows(bound: str, smallest: float, times: int, dtype: torch.dtype) -> None:
    model, slope = _through_the_range(smallest, 1 / smallest, times, dtype)
    image = torch.tensor([[0.5]], dtype=dtype)
    assert lipcert.global_lipschitz(model, (1,)) >= slope
    with suppress(NonFiniteBoundError):  # maps across activations overflow
        assert lipcert.local_lipschitz(model, image, 0.1, bound).item() >= slope


@pytest.mark.parametrize("bound", ["global", "local", "tight", "liplt", "global_liplt", None])
@pytest.mark.parametrize("pixel", [0.0, 0.5])
def test_products_that_underflow_decide_nothing(bound: str | None, pixel: float) -> None:
    """Exactly z = (x, pixel + 1/20): the class changes within 1/10, but no float64 sees x behind the small weights."""
    model, slope = _through_the_range(1e-59, 1e59, 6, torch.float64)
    model[-1].weight.data = torch.tensor([[1 / slope], [0.0]], dtype=torch.float64)
    model[-1].bias.data = torch.tensor([0.0, pixel + 0.05], dtype=torch.float64)
    image, label = torch.tensor([[pixel]], dtype=torch.float64), torch.tensor([1])
    for arithmetic in ("executed", "exact"):
        with suppress(NonFiniteBoundError):
            certificate = lipcert.certify(model, image, label, 0.1, bound, arithmetic=arithmetic)
            assert not certificate.certified.any()
            assert (certificate.radius < 0.05).all()
