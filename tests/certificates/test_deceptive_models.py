"""Models made to deceive a certifier: each once was, or could be, certified although it is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_state

import lipcert
from lipcert.bounds import UnsupportedLayerError
from lipcert.nn import ClippedMaxMin, ClippedReLU, Residual

BOUNDS = ("global", "local", "tight")


def linear(weight: list[list[float]], bias: list[float] | None = None) -> nn.Linear:
    """Return a float64 layer with these weights."""
    layer = nn.Linear(len(weight[0]), len(weight)).double()
    layer.weight.data = torch.tensor(weight, dtype=torch.float64)
    layer.bias.data = torch.zeros(len(weight)).double() if bias is None else torch.tensor(bias, dtype=torch.float64)
    return layer


def _row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


IDENTITY = [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize("bound", BOUNDS)
def test_in_place_activation_that_overwrites_a_shortcut(bound: str) -> None:
    branch = nn.Sequential(nn.ReLU(inplace=True), linear([[0.0, 0.0], [0.0, 0.0]]))
    model = nn.Sequential(
        linear(IDENTITY, [-0.5, -0.5]), Residual(branch), linear([[-1.0, 0.0], [0.0, 0.0]], [0.0, 0.2])
    )
    with pytest.raises(UnsupportedLayerError, match=r"'1'.*in place"):
        lipcert.certify(model, _row(0.1, 0.5), torch.tensor([0]), 0.05, bound)


def test_in_place_activation_elsewhere_is_harmless() -> None:
    layers = [linear(IDENTITY), nn.ReLU(inplace=True), linear(IDENTITY)]
    out_of_place = nn.Sequential(layers[0], nn.ReLU(), layers[2])
    image = _row(0.9, 0.1)
    expected = lipcert.certify(out_of_place, image, torch.tensor([0]), 0.3)
    certificate = lipcert.certify(nn.Sequential(*layers), image, torch.tensor([0]), 0.3)
    torch.testing.assert_close(certificate.margin, expected.margin, rtol=1e-4, atol=0)
    assert torch.equal(image, _row(0.9, 0.1))


@pytest.mark.parametrize("bound", BOUNDS)
def test_activations_that_broadcast(bound: str) -> None:
    spreading = nn.Sequential(
        linear([[1.0]]), ClippedReLU((400,), 2.0).double(), linear([[1 / 20] * 400, [0.0] * 400], [-9.0, 0.0])
    )
    with pytest.raises((UnsupportedLayerError, ValueError), match=r"broadcast|shape|'1'"):
        lipcert.certify(spreading, _row(0.5), torch.tensor([0]), 0.2, bound)


@pytest.mark.parametrize("bound", BOUNDS)
def test_pairs_of_an_odd_number_of_channels(bound: str) -> None:
    model = nn.Sequential(
        linear([[1.0], [2.0], [3.0]]), ClippedMaxMin((2,), 9.0, -9.0).double(), linear([[1.0] * 4, [0.0] * 4])
    )
    with pytest.raises(UnsupportedLayerError, match="'1'"):
        lipcert.certify(model, _row(0.5), torch.tensor([0]), 0.1, bound)


def test_one_image_at_a_time_gives_each_its_own_split_bound() -> None:
    model = nn.Sequential(linear([[1.0]], [-0.5]), nn.ReLU(), linear([[5.0], [0.0]]))
    images = torch.tensor([[0.1], [0.9]], dtype=torch.float64)
    bounds = lipcert.local_lipschitz(model, images, 0.01, "linear_split", batch_size=1)
    assert bounds[0] < 1e-6
    assert bounds[1] == pytest.approx(5.0, rel=1e-4)


@pytest.mark.parametrize("bound", BOUNDS)
def test_products_of_weights_that_vanish(bound: str) -> None:
    """float32 weights whose products underflow, undone by large ones behind."""
    size = 64
    ones, eye = torch.ones(size, size) / size, torch.eye(size)

    def layer(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
        made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        made.weight.data = weight
        if bias is not None:
            made.bias.data = bias
        return made

    last = layer(torch.cat((torch.ones(1, size) / size, torch.zeros(1, size))), torch.tensor([0.0, 0.46]))
    model = nn.Sequential(
        *(layer(ones * 2.0**-140), layer(eye * 2.0**-140), nn.ReLU()),
        *(layer(eye * 2.0**120), nn.ReLU(), layer(eye * 2.0**120), nn.ReLU(), layer(eye * 2.0**40), nn.ReLU(), last),
    )
    assert not lipcert.certify(model, torch.full((1, size), 0.5), torch.tensor([0]), 0.4, bound).certified.any()


def test_weights_too_small_to_square_are_refused() -> None:
    model = nn.Sequential(linear([[1e-200, 0.0], [0.0, 1.0]]), nn.ReLU(), linear(IDENTITY))
    with pytest.raises(ValueError, match=r"0\.weight"):
        lipcert.certify(model, _row(0.6, 0.4), torch.tensor([0]), 0.1)


class _OwnCall(nn.Linear):
    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return -super().__call__(*arguments, **keywords)


class _OwnIteration(nn.Sequential):
    def __iter__(self) -> Iterator[nn.Module]:
        return iter(reversed(list(self._modules.values())))


class _OwnConvolution(nn.Conv2d):
    def _conv_forward(self, *arguments: Any, **keywords: Any) -> Tensor:
        return -super()._conv_forward(*arguments, **keywords)


def _patched_convolution() -> nn.Module:
    layer = nn.Conv2d(1, 1, 1)
    original = layer._conv_forward
    layer._conv_forward = lambda *arguments: -original(*arguments)  # type: ignore[method-assign]
    return layer


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: nn.Sequential(nn.Flatten(), _OwnCall(4, 2)), "__call__"),
        (lambda: _OwnIteration(nn.Flatten(), nn.Linear(4, 2)), "__iter__"),
        (lambda: nn.Sequential(_OwnConvolution(1, 1, 1), nn.Flatten()), "_conv_forward"),
        (lambda: nn.Sequential(_patched_convolution(), nn.Flatten()), "_conv_forward"),
    ],
)
def test_methods_of_their_own(build: Callable[[], nn.Module], words: str) -> None:
    with pytest.raises(UnsupportedLayerError, match=words):
        lipcert.certify(build(), torch.rand(1, 1, 2, 2), torch.tensor([0]), 0.1)


@pytest.mark.parametrize("register", ["register_module_forward_hook", "register_module_forward_pre_hook"])
def test_global_hooks(register: str) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    handle = getattr(module_state, register)(lambda module, *values: None)
    try:
        with pytest.raises(UnsupportedLayerError, match="global forward hook"):
            lipcert.certify(model, torch.rand(1, 1, 2, 2), torch.tensor([0]), 0.1)
    finally:
        handle.remove()


def test_parametrizations_in_train_mode() -> None:
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2)).train()
    with pytest.raises(UnsupportedLayerError, match="parametrization in train mode"):
        lipcert.certify(nn.Sequential(layer), torch.rand(1, 2), torch.tensor([0]), 0.1)


def test_averages_with_a_negative_divisor() -> None:
    model = nn.Sequential(nn.AvgPool2d(2, divisor_override=-4), nn.Flatten(), nn.Linear(1, 2))
    with pytest.raises(UnsupportedLayerError, match="divisor_override"):
        lipcert.certify(model, torch.rand(1, 1, 2, 2), torch.tensor([0]), 0.1)


@pytest.mark.parametrize("bound", BOUNDS)
def test_pooling_first_and_between(bound: str) -> None:
    """In float32 and float64 alike; pooling once mixed the two."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.AvgPool2d(2), nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 3)
    )
    images = torch.rand(4, 1, 8, 8)
    labels = model(images).argmax(dim=1)
    assert lipcert.certify(model, images, labels, 1e-3, bound).certified.any()


def test_modules_named_like_internal_keys() -> None:
    model = nn.Sequential()
    model.add_module("fc", linear([[1e-3, 0.0], [0.0, 1e-3]]))
    model.add_module("output/0", nn.ReLU())
    model.add_module("last", linear(IDENTITY))
    assert lipcert.global_lipschitz(model, (2,)) == pytest.approx(1e-3, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
def test_labels_of_any_integer_type(dtype: torch.dtype) -> None:
    model = nn.Sequential(linear(IDENTITY))
    assert lipcert.certify(model, _row(0.9, 0.1), torch.zeros(1, dtype=dtype), 0.1).certified.all()


def test_margins_that_cancel_below_rounding() -> None:
    """The logits tie at the far end of the ball; only rounding says otherwise."""
    weight, bias = 1407758.4860183962, -1156571.7881181801
    image, epsilon = 0.6864202740685843, 0.13514947642842415
    model = nn.Sequential(linear([[0.0], [weight]], [0.0, bias]))
    assert not lipcert.certify(model, _row(image), torch.tensor([0]), epsilon).certified.any()
