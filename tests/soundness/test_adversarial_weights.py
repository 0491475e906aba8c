"""Weights that someone chose to break bounds: never a norm below the exact one, nothing wrongly certified.

Lanczos alone on dense matrices is the matter of tests/norms/test_lanczos.py; here are the bounds that certificates
use, masked, on layers, and whole networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lipcert
from lipcert.attacks import margins, pgd, random_search, unbounded
from lipcert.graph import operator
from lipcert.graph.operators import LinearMap, map_of
from lipcert.nn import ClippedMaxMin, ClippedReLU, MaxMin, Residual
from lipcert.norms import MapKey, UpperNorms
from tests.oracles import map_matrix
from tests.pairwise import pairwise

SPECTRA: dict[str, Callable[[int], Tensor]] = {
    "rank one": lambda size: torch.eye(size)[0],
    "rank two, equal": lambda size: (torch.arange(size) < 2).float(),
    "duplicated": lambda size: torch.where(torch.arange(size) < size // 2, 1.0, 0.5),
    "nearly equal": lambda size: 1 - 1e-12 * torch.arange(size, dtype=torch.float64),
    "one outlier": lambda size: torch.where(torch.arange(size) == 0, 1 + 1e-7, 1.0),
    "tiny tail": lambda size: 10.0 ** -torch.arange(size, dtype=torch.float64),
    "zero": torch.zeros,
}


def _matrix(kind: str, outputs: int, inputs: int, seed: int = 0) -> Tensor:
    """Return a float64 matrix with that spectrum and random singular vectors."""
    generator = torch.Generator().manual_seed(seed)
    size = min(outputs, inputs)
    left, right = (
        torch.linalg.qr(torch.randn(side, size, generator=generator, dtype=torch.float64)).Q
        for side in (outputs, inputs)
    )
    return left @ torch.diag(SPECTRA[kind](size).double()) @ right.T


KEY = MapKey(None, 0, 1, False, "layer")


def _map(layer: nn.Module, shape: tuple[int, ...]) -> LinearMap:
    return map_of(operator(layer.double().requires_grad_(False), shape), torch.zeros(0, dtype=torch.float64))


def _dense(matrix: Tensor) -> LinearMap:
    layer = nn.Linear(matrix.shape[1], matrix.shape[0], bias=False)
    layer.weight = nn.Parameter(matrix.double(), requires_grad=False)
    return _map(layer, (matrix.shape[1],))


def _masks(linear_map: LinearMap, count: int) -> tuple[Tensor, Tensor]:
    """Return masks of `count` images: nothing, everything, one entry of each side, then random ones."""
    generator = torch.Generator().manual_seed(1)
    masks = []
    for shape in (linear_map.output_shape, linear_map.input_shape):
        mask = (torch.rand(count, math.prod(shape), generator=generator) < 0.5).double()
        mask[0], mask[1], mask[2] = 0, 1, 0
        mask[2, 0] = 1
        masks.append(mask.view(count, *shape))
    return masks[0], masks[1]


def _exact_norms(linear_map: LinearMap, rows: Tensor, columns: Tensor) -> Tensor:
    """Return exact norms by numpy's singular values, computed at unit scale."""
    matrices = map_matrix(linear_map, len(rows)) * rows.flatten(1)[:, :, None] * columns.flatten(1)[:, None, :]
    scale = max(float(matrices.abs().max()), 1e-300)
    norms = np.linalg.svd((matrices / scale).detach().numpy(), compute_uv=False)[:, 0] * scale
    return torch.from_numpy(norms)


def _assert_above(linear_map: LinearMap) -> None:
    rows, columns = _masks(linear_map, 6)
    exact = _exact_norms(linear_map, rows, columns)
    for steps in (1, 5, 40):
        norms = UpperNorms(steps, global_steps=steps)
        upper = norms.local_norms(KEY, linear_map, rows, columns)
        assert (upper >= exact).all()
        assert upper.isfinite().all()
        assert norms.global_norm(KEY, linear_map).item() >= exact[1]


@pairwise(shape=[(20, 30), (140, 150)], kind=SPECTRA, scale=[1e-20, 1.0, 1e20])
def test_masked_dense_layers(shape: tuple[int, int], kind: str, scale: float) -> None:
    """The smaller one by its Gram matrix, the larger one by Lanczos."""
    _assert_above(_dense(_matrix(kind, *shape) * scale))


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
@pytest.mark.parametrize("kind", ["rank one", "nearly equal", "zero"])
def test_masked_convolutions(kind: str, scale: float) -> None:
    layer = nn.Conv2d(4, 4, 3, 1, 1, bias=False)
    layer.weight = nn.Parameter((_matrix(kind, 4, 36) * scale).view(4, 4, 3, 3))
    _assert_above(_map(layer, (4, 6, 6)))


def test_rows_that_differ_by_forty_orders_of_magnitude() -> None:
    scales = 10.0 ** torch.linspace(-20, 20, 140, dtype=torch.float64)
    _assert_above(_dense(_matrix("nearly equal", 140, 150) * scales[:, None]))


def _float_layer(matrix: Tensor, bias: Tensor | None = None) -> nn.Linear:
    layer = nn.Linear(matrix.shape[1], matrix.shape[0])
    layer.weight.data = matrix.float()
    layer.bias.data = torch.zeros(len(matrix)) if bias is None else bias.float()
    return layer


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "clipped_relu": lambda: ClippedReLU((16,), 0.3),
    "maxmin": MaxMin,
    "clipped_maxmin": lambda: ClippedMaxMin((16,), 0.3, -0.3),
}

INPUTS = torch.rand(10, 12, generator=torch.Generator().manual_seed(2))


def _network(kind: str, activation: str, scale: float = 1.0) -> nn.Module:
    """Return a float32 network of three such layers, one scaled up and the next down again; biases off zero."""
    bias = torch.linspace(-0.2, 0.2, 16)
    threshold = ACTIVATIONS[activation]()
    with torch.no_grad():
        for parameter in threshold.parameters():
            parameter.mul_(scale)
    return nn.Sequential(
        _float_layer(2 * _matrix(kind, 16, 12, 1) * scale, bias * scale),
        threshold,
        _float_layer(2 * _matrix(kind, 16, 16, 2) / scale, bias),
        ACTIVATIONS[activation](),
        _float_layer(2 * _matrix(kind, 4, 16, 3), torch.tensor([0.3, 0.0, -0.1, 0.1])),
    ).eval()


def _assert_not_refuted(model: nn.Module, inputs: Tensor, epsilon: float) -> int:
    """Check that no attack goes below the certified margins; return how many images are certified."""
    labels = model(inputs).argmax(dim=1)
    certificate = lipcert.certify(model, inputs, labels, epsilon)
    radius, box = epsilon * (1 - 1e-5), unbounded(epsilon)
    for points in (
        pgd(model, inputs, labels, radius, steps=10, box=box),
        random_search(model, inputs, labels, radius, queries=30, box=box),
    ):
        executed = margins(model, points, labels)
        assert (executed >= certificate.margin).all()
        assert (executed[certificate.certified] > 0).all()
    return int(certificate.certified.sum())


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", SPECTRA)
def test_networks_with_difficult_spectra(kind: str, activation: str) -> None:
    model = _network(kind, activation)
    small, large = (_assert_not_refuted(model, INPUTS, epsilon) for epsilon in (1e-3, 0.1))
    assert small > 0
    assert small >= large


@pairwise(kind=["rank one", "nearly equal"], activation=["relu", "clipped_relu", "clipped_maxmin"], scale=[1e-20, 1e20])
def test_networks_scaled_up_and_down(kind: str, activation: str, scale: float) -> None:
    """Scales cancel, and never to the advantage of a margin; scaled down again, a row's norm may be overestimated."""
    labels = _network(kind, activation)(INPUTS).argmax(dim=1)
    _assert_not_refuted(_network(kind, activation, scale), INPUTS, 1e-2)
    plain, scaled = (
        lipcert.certify(_network(kind, activation, each), INPUTS, labels, 1e-2, "tight") for each in (1.0, scale)
    )
    assert (scaled.margin <= plain.margin + 1e-4).all()
    torch.testing.assert_close(plain.margin, scaled.margin, rtol=0, atol=0.02)


@pytest.mark.parametrize("place", [0, 2, 4])
def test_a_zero_layer_makes_a_constant_network(place: int) -> None:
    model = _network("nearly equal", "clipped_relu")
    model[place].weight.data.zero_()  # type: ignore[index, union-attr, operator]
    label = int(model(INPUTS)[0].argmax())
    for epsilon in (1e-3, 1e3):
        certificate = lipcert.certify(model, INPUTS, torch.full((10,), label), epsilon)
        assert certificate.certified.all()
        executed = margins(model, INPUTS, torch.full((10,), label))
        assert (certificate.margin <= executed).all()
        assert (certificate.margin >= executed - 1e-4).all()


@pytest.mark.parametrize("duplicate", [True, False])
def test_equal_logits(duplicate: bool) -> None:
    """Two classes with the same row are equal at every image; so are all classes of a zero layer."""
    model = _network("nearly equal", "relu")
    last = model[4]  # type: ignore[index]
    if duplicate:
        last.weight.data[1], last.bias.data[1] = last.weight.data[0], last.bias.data[0]
    else:
        last.weight.data.zero_()
        last.bias.data.fill_(0.3)
    for label in (0, 1):
        for bound in ("global", "local", "tight", "liplt", None):
            certificate = lipcert.certify(model, INPUTS, torch.full((10,), label), 1e-6, bound)
            assert not certificate.certified.any()
            assert (certificate.margin <= 0).all()


def test_networks_whose_neurons_are_all_constant_near_the_images() -> None:
    """Masks of zeros: certified however large the weights behind, but no further than the neurons stay constant."""
    model = nn.Sequential(
        _float_layer(_matrix("nearly equal", 16, 12), torch.full((16,), -10.0)),
        nn.ReLU(),
        _float_layer(1e6 * _matrix("nearly equal", 4, 16), torch.tensor([1.0, 0.0, 0.0, 0.0])),
    ).eval()
    labels = torch.zeros(10, dtype=torch.int64)
    near = lipcert.certify(model, INPUTS, labels, 1.0)
    assert near.certified.all()
    assert (near.margin <= 1).all()
    far = lipcert.certify(model, INPUTS, labels, 20.0)
    assert not far.certified.any()
    _assert_not_refuted(model, INPUTS, 20.0)


def test_thresholds_of_zero() -> None:
    model = nn.Sequential(
        _float_layer(_matrix("nearly equal", 16, 12)),
        ClippedReLU((16,), 0.0),
        _float_layer(_matrix("nearly equal", 4, 16), torch.tensor([1.0, 0.0, 0.0, 0.0])),
    ).eval()
    certificate = lipcert.certify(model, INPUTS, torch.zeros(10, dtype=torch.int64), 1e3)
    assert certificate.certified.all()
    assert (certificate.margin <= 1).all()


BROKEN: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "0.bias": (lambda: _network("duplicated", "relu"), "0.bias"),
    "4.weight": (lambda: _network("duplicated", "maxmin"), "4.weight"),
    "1.threshold": (lambda: _network("duplicated", "clipped_relu"), "1.threshold"),
    "3.max": (lambda: _network("duplicated", "clipped_maxmin"), "3.max"),
    "1.running_var": (
        lambda: nn.Sequential(nn.Linear(12, 4), nn.BatchNorm1d(4)).eval(),
        "1.running_var",
    ),
    "0.branch.0.weight": (
        lambda: nn.Sequential(Residual(nn.Sequential(nn.Linear(12, 12)))).eval(),
        "0.branch.0.weight",
    ),
}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("case", BROKEN)
def test_one_number_that_is_not_finite_is_refused_by_name(case: str, value: float) -> None:
    make, name = BROKEN[case]
    model = make()
    model.state_dict()[name].view(-1)[-1] = value
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        lipcert.certify(model, INPUTS, torch.zeros(10, dtype=torch.int64), 0.1)


@pytest.mark.parametrize("epsilon", [1e-300, 1e-30, 1e-12])
def test_tiny_epsilons_certify_only_what_rounding_leaves(epsilon: float) -> None:
    model = _network("nearly equal", "clipped_relu")
    labels = model(INPUTS).argmax(dim=1)
    certificate = lipcert.certify(model, INPUTS, labels, epsilon)
    executed = margins(model, INPUTS, labels)
    assert certificate.certified.any()
    assert (certificate.margin <= executed).all()
    assert not lipcert.certify(model, INPUTS, (labels + 1) % 4, epsilon).certified.any()


@pairwise(activation=ACTIVATIONS, epsilon=[1e3, 1e20, 1e150, 1e300], bound=["global", "local", "tight", "liplt", None])
def test_huge_epsilons_certify_nothing(activation: str, epsilon: float, bound: str | None) -> None:
    model = _network("nearly equal", activation)
    labels = model(INPUTS).argmax(dim=1)
    try:
        certificate = lipcert.certify(model, INPUTS, labels, epsilon, bound)
    except ArithmeticError:
        return  # refused altogether
    assert not certificate.certified.any()
