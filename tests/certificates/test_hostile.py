"""Networks and models made against the certifier: what it states must hold at the edges of floats and of Python."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import lipcert
from lipcert.bounds import UnsupportedLayerError
from lipcert.nn import ClippedReLU, Normalize, Residual
from lipcert.norms.lanczos import Tridiagonal, _exceeds

BOUNDS = ("global", "tight", "liplt", "global_liplt", None)
DOUBLE = torch.float64


def linear(weight: list[list[float]], bias: list[float] | None = None, dtype: torch.dtype = torch.float32) -> nn.Linear:
    """Return a layer with these weights."""
    layer = nn.Linear(len(weight[0]), len(weight), dtype=dtype)
    layer.weight.data = torch.tensor(weight, dtype=dtype)
    layer.bias.data = torch.zeros(len(weight), dtype=dtype) if bias is None else torch.tensor(bias, dtype=dtype)
    return layer


def _refused(model: nn.Module, images: Tensor, label: int, epsilon: float, bound: str | None, **keywords: Any) -> bool:
    certificate = lipcert.certify(model, images, torch.tensor([label]), epsilon, bound, **keywords)
    return not bool(certificate.certified.any())


def _amplifier() -> nn.Sequential:
    """Exactly z = (1e39 x, 1/2)."""
    return nn.Sequential(linear([[1e38], [0.0]]), nn.ReLU(), linear([[10.0, 0.0], [0.0, 0.0]], [0.0, 0.5]))


@pytest.mark.parametrize("bound", BOUNDS)
def test_float64_pixels_below_the_range_of_float32(bound: str | None) -> None:
    """The image is 1e-46: not 0, but as a float32 it is."""
    model = nn.Sequential(linear([[1e38], [0.0]]), nn.ReLU(), linear([[1e10, 0.0], [0.0, 0.0]], [0.0, 0.5]))
    image = torch.tensor([[1e-46]], dtype=DOUBLE)
    with torch.no_grad():
        assert model(image.float())[0, 0] < model(image.float())[0, 1]
    assert _refused(model, image, 0, 1e-50, bound)


@pytest.mark.parametrize("bound", BOUNDS)
def test_subnormal_pixels_may_be_flushed(bound: str | None) -> None:
    model, image = _amplifier(), torch.tensor([[9e-39]])
    if torch.set_flush_denormal(True):
        try:
            with torch.no_grad():
                assert model(image)[0, 0] < model(image)[0, 1]
        finally:
            torch.set_flush_denormal(False)
    assert _refused(model, image, 0, 1e-40, bound)


@pytest.mark.parametrize("bound", BOUNDS)
def test_subnormal_thresholds_may_be_flushed(bound: str | None) -> None:
    """Exactly z = (0.9, 1/2): a unit is constant at its threshold, which the next layer reads as 0."""
    threshold = ClippedReLU((1,), 9e-39)
    model = nn.Sequential(linear([[1.0]]), threshold, linear([[1e38]]), linear([[1.0], [0.0]], [0.0, 0.5]))
    assert _refused(model, torch.tensor([[0.5]]), 0, 0.1, bound)


@pytest.mark.parametrize("bound", BOUNDS)
def test_averages_whose_sums_overflow(bound: str | None) -> None:
    """Every pixel and every average is a float32; the sum of a window is not."""
    spread = nn.Conv2d(1, 2, 1)
    spread.weight.data = torch.tensor([4.0e37, 4.1e37]).view(2, 1, 1, 1)
    spread.bias.data.zero_()  # type: ignore[union-attr]
    model, image = nn.Sequential(spread, nn.AvgPool2d(4), nn.Flatten()), torch.ones(1, 1, 4, 4)
    assert model(image).isinf().all()
    assert _refused(model, image, 1, 1e-3, bound)


@pytest.mark.parametrize("bound", BOUNDS)
def test_residual_sums_that_overflow(bound: str | None) -> None:
    doubling = [Residual(nn.Identity()) for _ in range(4)]
    model, image = nn.Sequential(linear([[4.0e37], [4.1e37]]), *doubling), torch.ones(1, 1)
    assert model(image).isinf().all()
    assert _refused(model, image, 1, 1e-3, bound)


@pytest.mark.parametrize("bound", BOUNDS)
def test_normalisation_whose_difference_overflows(bound: str | None) -> None:
    """The difference x - mean leaves float32, divided by `std` it would be back inside."""
    model = nn.Sequential(linear([[-4.1e37], [-1.0e37]]), Normalize([3.4e38] * 2, [1e35] * 2))
    image = torch.ones(1, 1)
    assert model(image).isinf().all()
    assert _refused(model, image, 1, 1e-3, bound)


@pytest.mark.parametrize("bound", BOUNDS)
def test_batch_norm_whose_scale_underflows_against_a_large_mean(bound: str | None) -> None:
    """Exactly z = (1e8, 1/2), from a scale of 1e-49 and a mean of 1e37."""
    norm = nn.BatchNorm1d(1)
    norm.running_mean.fill_(1e37)  # type: ignore[union-attr]
    norm.running_var.fill_(1e38)  # type: ignore[union-attr]
    norm.weight.data.fill_(1e-30)
    model = nn.Sequential(linear([[1.0]]), norm, linear([[-1e20], [0.0]], [0.0, 0.5])).eval()
    image = torch.ones(1, 1)
    with torch.no_grad():
        assert model(image)[0, 0] < model(image)[0, 1]
    assert _refused(model, image, 0, 1e-3, bound)


@pytest.mark.parametrize("bound", BOUNDS)
def test_batch_norm_whose_scale_overflows(bound: str | None) -> None:
    """Exactly z = (-3, 1/2) or so: a small input times a scale that no float32 holds."""
    norm = nn.BatchNorm1d(1)
    norm.running_var.fill_(1e-10)  # type: ignore[union-attr]
    norm.weight.data.fill_(1e38)
    model = nn.Sequential(linear([[-1e-10]]), norm, linear([[1e-30], [0.0]], [0.0, 0.5])).eval()
    image = torch.ones(1, 1)
    with torch.no_grad():
        assert not model(image)[0, 1] > model(image)[0, 0]
    assert _refused(model, image, 1, 1e-3, bound)


class _Lossy(nn.Module):
    """The identity, but for what float32 loses of it."""

    def forward(self, weight: Tensor) -> Tensor:
        return (weight + 1e9) - 1e9


@pytest.mark.parametrize("bound", BOUNDS)
def test_parametrized_weights_are_those_of_the_executed_precision(bound: str | None) -> None:
    layer = linear([[1.0], [0.0]], [0.0, 0.5])
    parametrize.register_parametrization(layer, "weight", _Lossy())
    model, image = nn.Sequential(layer).eval(), torch.tensor([[0.9]])
    with torch.no_grad():
        assert model(image)[0, 0] < model(image)[0, 1]
    with pytest.raises(UnsupportedLayerError, match=r"'0'.*_Lossy.*remove_parametrizations\(layer, 'weight'\)"):
        _refused(model, image, 0, 0.1, bound)
    parametrize.remove_parametrizations(layer, "weight")
    assert _refused(model, image, 0, 0.1, bound)


def test_parametrizations_whose_own_modules_are_in_train_mode() -> None:
    """Spectral normalisation then changes the weight at each use, whatever the mode of its layer."""
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2)).eval()
    for part in layer.parametrizations.children():  # type: ignore[union-attr]
        part.train()
    with pytest.raises(UnsupportedLayerError, match="parametrization in train mode"):
        lipcert.certify(nn.Sequential(layer), torch.rand(1, 2), torch.tensor([0]), 0.1)


@pytest.mark.parametrize("bound", BOUNDS)
def test_directions_whose_squares_vanish(bound: str | None) -> None:
    """Exactly z = 1e-180 (a + b, 1/2), every weight at the smallest that is allowed."""
    small = [linear([[1e-60, 0.0], [0.0, 1e-60]], None, DOUBLE) for _ in range(3)]
    model = nn.Sequential(linear([[1.0, 1.0], [0.0, 0.0]], [0.0, 0.5], DOUBLE), *small)
    image = torch.full((1, 2), 0.45, dtype=DOUBLE)
    with torch.no_grad():
        assert model(image - 0.4).argmax() != model(image).argmax()
    assert _refused(model, image, 0, 0.6, bound)


@pytest.mark.parametrize("arithmetic", ["executed", "exact"])
def test_errors_whose_squares_vanish(arithmetic: str) -> None:
    """Exactly z = (0.9, 1/2): scaled down until nothing is left, then up again. `executed` implies `exact`."""
    down = [linear([[1e-30, 0.0], [0.0, 1e-30]], None, DOUBLE) for _ in range(11)]
    up = [linear([[1e30, 0.0], [0.0, 1e30]], None, DOUBLE) for _ in range(11)]
    layers = [part for layer in (*down, *up) for part in (layer, nn.ReLU())]
    model = nn.Sequential(*layers, linear([[0.5, 0.5], [0.0, 0.0]], [0.0, 0.5], DOUBLE))
    image = torch.full((1, 2), 0.9, dtype=DOUBLE)
    assert _refused(model, image, 1, 0.1, "tight", arithmetic=arithmetic)


def test_noise_beyond_the_start_vector_refutes_nothing() -> None:
    """However large the polynomials grow: where rounding may be all of v's component, no bound is proved."""
    steps = 60
    diagonal, off_diagonal = torch.ones(1, steps, dtype=DOUBLE), torch.full((1, steps), 1e-8, dtype=DOUBLE)
    tridiagonal = Tridiagonal(diagonal, off_diagonal, torch.ones(1, dtype=DOUBLE))
    component, residual = torch.full((1, 1), 1e-5, dtype=DOUBLE), torch.full((1, 1), 10.0, dtype=DOUBLE)
    assert not bool(_exceeds(tridiagonal, torch.full((1, 1), 1.5, dtype=DOUBLE), component, residual).any())


def test_a_global_norm_that_float64_cannot_see() -> None:
    """Two layers that multiply one pixel by 2, which a term of 1e30 that cancels hides from every iteration."""
    size, large = 160, 1e30
    spread = 1 + 1e-9 * torch.randn(size, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    first, second = torch.zeros(size + 1, size, dtype=DOUBLE), torch.zeros(size, size + 1, dtype=DOUBLE)
    first[:size], second[:, :size] = torch.diag(spread), torch.eye(size, dtype=DOUBLE)
    first[size - 1, size - 1], first[size - 1, 0], first[size, 0] = 2.0, large, large
    second[size - 1, size] = -1.0
    layers = nn.Linear(size, size + 1, bias=False).double(), nn.Linear(size + 1, size, bias=False).double()
    for layer, weight in zip(layers, (first, second), strict=True):
        layer.weight.data = weight
    assert lipcert.global_lipschitz(nn.Sequential(*layers), (size,)) >= 2.0


@pytest.mark.parametrize("bound", ["local", "tight", "liplt", "linear_split", "global_liplt"])
def test_local_lipschitz_bounds_cover_the_rounding_of_their_boxes(bound: str) -> None:
    """Exactly f(x) = (1 - 30 x, 1/2); in float64 the biases swallow x, and its unit seems off."""
    model = nn.Sequential(
        linear([[1.0], [0.0]], [1e16, 0.0], DOUBLE),
        nn.ReLU(),
        linear([[1.0, 0.0], [0.0, 0.0]], [-1e16, 1.0], DOUBLE),
        nn.ReLU(),
        linear([[-30.0, 1.0], [0.0, 0.5]], None, DOUBLE),
    )
    assert lipcert.local_lipschitz(model, torch.tensor([[0.9]], dtype=DOUBLE), 0.1, bound).item() >= 30.0


def _compiled() -> nn.Module:
    layer = linear([[1.0], [0.0]], [0.0, 0.5])
    weight, bias = layer.weight, layer.bias
    layer._compiled_call_impl = lambda inputs: -nn.functional.linear(inputs, weight, bias)
    return layer


def _copied_as_another() -> nn.Module:
    layer = linear([[-1.0], [0.0]], [0.0, 0.5])
    layer.__deepcopy__ = lambda memo: linear([[1.0], [0.0]], [0.0, 0.5])  # type: ignore[assignment]
    return layer


class _SeemsParametrized(nn.Linear):
    def __init__(self) -> None:
        super().__init__(1, 2)
        self.parametrizations = nn.ModuleDict({"x": nn.Identity()})
        self.weight.data, self.bias.data = torch.tensor([[1.0], [0.0]]), torch.tensor([0.0, 0.5])

    def forward(self, inputs: Tensor) -> Tensor:
        return -super().forward(inputs)


@pytest.mark.parametrize("build", [_compiled, _copied_as_another, _SeemsParametrized])
def test_layers_that_compute_something_else_are_refused(build: Callable[[], nn.Module]) -> None:
    model, image = nn.Sequential(build()).eval(), torch.tensor([[0.9]])
    with torch.no_grad():
        assert model(image)[0, 0] < model(image)[0, 1]
    with suppress(UnsupportedLayerError):
        assert _refused(model, image, 0, 0.1, "tight")


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda model, x, y: lipcert.certify(model, x.numpy(), y, 0.1), TypeError, "`images` as a torch.Tensor"),
        (lambda model, x, y: lipcert.certify(model, x, y.tolist(), 0.1), TypeError, "`labels` as a torch.Tensor"),
        (lambda model, x, y: lipcert.local_lipschitz(model, x.tolist(), 0.1), TypeError, "got a list"),
        (lambda model, x, y: lipcert.global_lipschitz(model, x), TypeError, "images.shape"),
        (lambda model, x, y: lipcert.certify(model, x, y[:1], 0.1, batch_size=1), ValueError, "2 images and 1 labels"),
        (lambda model, x, y: lipcert.certify(model, x[:, :1], y, 0.1), UnsupportedLayerError, "takes 2 inputs"),
    ],
)
def test_what_is_no_batch_of_tensors_is_refused(call: Callable[..., Any], kind: type[Exception], words: str) -> None:
    model = nn.Sequential(linear([[1.0, 0.0], [0.0, 1.0]]), nn.ReLU(), linear([[1.0, 0.0], [0.0, 1.0]]))
    with pytest.raises(kind, match=words):
        call(model, torch.rand(2, 2), torch.tensor([0, 1]))


def test_pooling_in_inference_mode() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    images, labels = torch.rand(2, 1, 4, 4), torch.tensor([0, 1])
    expected = lipcert.certify(model, images, labels, 0.1)
    with torch.inference_mode():
        assert torch.equal(lipcert.certify(model, images, labels, 0.1).margin, expected.margin)
