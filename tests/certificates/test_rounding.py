"""Certificates hold for the network as executed: on ordinary networks, and on ones built so that floats break them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import lipcert
from lipcert.bounds import Arithmetic, analyze, logit_rounding
from lipcert.certificates import Certifier, Float64Model
from lipcert.nn import ClippedReLU, MaxMin, Normalize, Residual
from lipcert.norms import UpperNorms
from tests.networks import images, network
from tests.oracles import points_in_ball
from tests.pairwise import pairwise

KINDS = ("relu", "clipped_relu", "maxmin", "clipped_maxmin")
LABEL = torch.tensor([0])


def linear(weight: list[list[float]], bias: list[float] | None = None, dtype: torch.dtype = torch.float32) -> nn.Linear:
    """Return a layer with these weights."""
    layer = nn.Linear(len(weight[0]), len(weight), dtype=dtype)
    layer.weight.data = torch.tensor(weight, dtype=dtype)
    layer.bias.data = torch.zeros(len(weight), dtype=dtype) if bias is None else torch.tensor(bias, dtype=dtype)
    return layer


def _pixel(*values: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor([values], dtype=dtype)


@pairwise(name=["plain", "pooled", "residual"], kind=KINDS, epsilon=[1e-3, 0.3])
def test_executed_logits_stay_within_the_stated_rounding(name: str, kind: str, epsilon: float) -> None:
    """Every pair of logits, at points all over the ball, in float32 against float64."""
    single = network(name, kind, scale=1.2).float()
    double = network(name, kind, scale=1.2).float().double()
    inputs = images(4).float()
    labels = single(inputs).argmax(dim=1)
    arithmetic = Arithmetic.of(torch.float32, torch.float32)
    with torch.no_grad():
        analysis = analyze(double, inputs.double(), epsilon, "tight", UpperNorms(), arithmetic=arithmetic)
        stated = logit_rounding(analysis, labels)
        largest = torch.zeros_like(stated)
        for point in points_in_ball(inputs, epsilon * (1 - 1e-6), 20):
            error = single(point).double() - double(point.double())
            largest = torch.maximum(largest, (error - error.gather(1, labels[:, None])).abs())
    assert (largest <= stated).all()
    assert (stated < 1e-2).all()
    assert (largest > 0).any()


def test_errors_that_both_logits_inherit_cancel() -> None:
    """The logits h_0 and h_0 + h_1 / 1000 of large hidden values share nearly all of their error."""
    torch.manual_seed(0)
    last = linear([[1.0, 0.0], [1.0, 1e-3]])
    single = nn.Sequential(nn.Flatten(), nn.Linear(72, 2), nn.ReLU(), last).eval().requires_grad_(False)
    single[1].bias.fill_(2.0**20)
    double, inputs = copy.deepcopy(single).double(), images(1).float()
    arithmetic = Arithmetic.of(torch.float32, torch.float32)
    analysis = analyze(double, inputs.double(), 0.1, "tight", UpperNorms(), arithmetic=arithmetic)
    stated = logit_rounding(analysis, LABEL)[0, 1].item()
    points = points_in_ball(inputs, 0.099, 300)[:, 0]
    error = single(points).double() - double(points.double())
    largest = (error[:, 1] - error[:, 0]).abs().max().item()
    assert analysis.region.rounding is not None
    assert 0 < largest <= stated < 0.75 * analysis.region.rounding.entries.sum().item()


def _cancelling_biases(large: float, dtype: torch.dtype) -> nn.Sequential:
    """Exactly z = (x, 1/2); executed, x is lost in a sum that is undone again."""
    return nn.Sequential(
        linear([[1.0], [0.0]], [large, 0.5], dtype), nn.ReLU(), linear([[1.0, 0.0], [0.0, 1.0]], [-large, 0.0], dtype)
    )


def _cancelling_inputs() -> nn.Sequential:
    """Exactly z = (x, 1/2): three inputs of a sum, in whatever order, of which two cancel."""
    spread = linear([[1e9], [1.0], [1e9]])
    return nn.Sequential(spread, nn.ReLU(), linear([[1.0, 1.0, -1.0], [0.0, 0.0, 0.0]], [0.0, 0.5]))


def _vanishing_products() -> nn.Sequential:
    """Exactly z = (x, 1/2); executed, a product underflows before it is scaled up again."""
    small, large = linear([[1e-25], [0.0]], [0.0, 0.5]), linear([[1e25, 0.0], [0.0, 1.0]])
    return nn.Sequential(small, linear([[1e-25, 0.0], [0.0, 1.0]]), nn.ReLU(), large, nn.ReLU(), large)


def _overflowing_products() -> nn.Sequential:
    """Exactly z = (x, 1/2); executed, infinity times 0 or a tie of infinities."""
    large, small = linear([[1e25], [0.0]], [0.0, 0.5]), linear([[1e-25, 0.0], [0.0, 1.0]])
    return nn.Sequential(large, linear([[1e25, 0.0], [0.0, 1.0]]), nn.ReLU(), small, nn.ReLU(), small)


def _cancelling_shortcut() -> nn.Sequential:
    """Exactly z = (x, 1/2): a branch adds what the layer behind takes off again."""
    branch = linear([[0.0, 0.0], [0.0, 0.0]], [1e9, 0.0])
    return nn.Sequential(
        linear([[1.0], [0.0]], [0.0, 0.5]), Residual(branch), linear([[1.0, 0.0], [0.0, 1.0]], [-1e9, 0.0])
    )


def _cancelling_normalisation() -> nn.Sequential:
    return nn.Sequential(Normalize([-1e9], [1.0]), nn.Flatten(), linear([[1.0], [0.0]], [-1e9, 0.5]))


BREAKING: dict[str, Callable[[], nn.Sequential]] = {
    "biases": lambda: _cancelling_biases(1e9, torch.float32),
    "inputs": _cancelling_inputs,
    "underflow": _vanishing_products,
    "overflow": _overflowing_products,
    "shortcut": _cancelling_shortcut,
}


@pytest.mark.parametrize("bound", ["global", "local", "tight", "liplt", "global_liplt", None])
@pytest.mark.parametrize("name", BREAKING)
def test_networks_that_floats_break_are_not_certified(name: str, bound: str | None) -> None:
    model, image = BREAKING[name](), _pixel(0.9)
    executed = model(image)
    assert not executed[0, 0] > executed[0, 1]  # x = 0.9 is more than 1/2, but not as executed
    assert not lipcert.certify(model, image, LABEL, 0.1, bound).certified.any()


@pytest.mark.parametrize(("name", "bound"), [("biases", "global"), ("shortcut", "tight"), ("inputs", "liplt")])
def test_they_are_certified_as_numbers(name: str, bound: str) -> None:
    exact = lipcert.certify(BREAKING[name](), _pixel(0.9), LABEL, 0.1, bound, arithmetic="exact")
    assert exact.certified.all()
    assert exact.rounding.item() > exact.margin.item()
    assert exact.arithmetic == "exact"


def test_normalisation_inside_the_network_is_rounded_too() -> None:
    model, image = _cancelling_normalisation(), torch.full((1, 1, 1, 1), 0.9)
    assert model(image)[0, 0] <= model(image)[0, 1]
    assert not lipcert.certify(model, image, LABEL, 0.1).certified.any()


@pytest.mark.parametrize("bound", ["global", "local", "tight", "liplt", "global_liplt"])
def test_biases_that_cancel_in_float64_too(bound: str) -> None:
    model, image = _cancelling_biases(1e17, torch.float64), _pixel(0.9, dtype=torch.float64)
    assert model(image)[0, 0] < model(image)[0, 1]
    for arithmetic in ("executed", "exact"):
        assert not lipcert.certify(model, image, LABEL, 0.1, bound, arithmetic=arithmetic).certified.any()


def test_boxes_are_wide_enough_for_their_own_rounding() -> None:
    """A unit seems off by less than the bias swallows: were it constant, the image would be certified."""
    model = nn.Sequential(
        linear([[1.0], [0.0]], [1e16, 0.0], torch.float64),
        nn.ReLU(),
        linear([[1.0, 0.0], [0.0, 0.0]], [-1e16 - 0.95, 1.0], torch.float64),
        nn.ReLU(),
        linear([[-30.0, 1.0], [0.0, 0.5]], None, torch.float64),
    )
    image = _pixel(0.9, dtype=torch.float64)
    for arithmetic in ("executed", "exact"):
        assert not lipcert.certify(model, image, LABEL, 0.1, "tight", arithmetic=arithmetic).certified.any()


@pytest.mark.parametrize("kind", KINDS)
def test_what_float32_certifies_float64_does_not_refuse(kind: str) -> None:
    single = network("plain", kind, scale=1.2).float()
    inputs = images(12).float()
    labels = single(inputs).argmax(dim=1)
    epsilon = float(lipcert.certified_radius(single, inputs, labels, "tight", largest=1.0, rounds=8).median())
    in_single = Certifier(Float64Model(single), "tight")(inputs, labels, epsilon)
    in_double = Certifier(Float64Model(single.double()), "tight")(inputs.double(), labels, epsilon)
    assert in_single.certified.any()
    assert (in_double.certified | ~in_single.certified).all()
    assert (in_double.rounding < 1e-6 * in_single.rounding).all()


def test_images_finer_than_the_network_are_rounded() -> None:
    """float64 images enter a float32 network by a rounding of their own."""
    model = nn.Sequential(linear([[1.0], [0.0]], [0.0, 0.5]))
    coarse = lipcert.certify(model, _pixel(0.9), LABEL, 0.1)
    fine = lipcert.certify(model, _pixel(0.9, dtype=torch.float64), LABEL, 0.1)
    assert fine.rounding.item() >= coarse.rounding.item() + 0.9 * 2.0**-24


@pytest.mark.parametrize("epsilon", [1e-30, 1e-300])
def test_an_epsilon_that_rounds_away(epsilon: float) -> None:
    model = nn.Sequential(linear([[1.0], [0.0]], [0.0, 0.5]), MaxMin())
    assert lipcert.certify(model, _pixel(0.9), LABEL, epsilon).certified.all()
    assert not lipcert.certify(model, _pixel(0.5), LABEL, epsilon).certified.any()  # a tie
    just_above = torch.nextafter(torch.tensor(0.5), torch.tensor(1.0)).view(1, 1)
    assert not lipcert.certify(model, just_above, LABEL, epsilon).certified.any()  # within rounding of a tie


def test_unknown_arithmetic_is_refused() -> None:
    with pytest.raises(ValueError, match="arithmetic"):
        Certifier(Float64Model(nn.Sequential(linear([[1.0]]))), arithmetic="float8")


def test_thresholds_select_without_rounding() -> None:
    model = nn.Sequential(linear([[1.0], [0.0]], [1e9, 0.25]), ClippedReLU((2,), 0.5), linear([[1.0, 0.0], [0.0, 1.0]]))
    assert lipcert.certify(model, _pixel(0.9), LABEL, 0.1).certified.all()
