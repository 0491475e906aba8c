"""Starts of norm estimates: lower estimates whatever was kept, the better the more often an image was seen."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from lipcert.bounds import PowerNorms, WarmStart, analyze
from lipcert.bounds.linear_map import LinearMap, identity_map
from lipcert.bounds.operators import operator
from lipcert.bounds.warm_start import KINDS, LARGEST_KEPT, MapsMet
from lipcert.nn import build
from tests.networks import images, network
from tests.oracles import ExactNorms

COUNT = 9
IMAGES = torch.tensor([7, 0, 3, 4])

torch.manual_seed(0)
LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "dense": (nn.Linear(40, 24), (40,)),
    "strided": (nn.Conv2d(3, 4, 4, 2, 1), (3, 6, 6)),
}


def _map(name: str) -> LinearMap:
    torch.manual_seed(1)
    layer, shape = LAYERS[name]
    return identity_map(shape).after(operator(copy.deepcopy(layer).double(), shape))


def _mask(shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(len(IMAGES), *shape, generator=generator) < 0.6).double()


def _norms(kind: str, linear_map: LinearMap, iterations: int = 1) -> PowerNorms:
    torch.manual_seed(0)
    norms = PowerNorms(iterations, warm_start=WarmStart(kind, COUNT))
    norms.warm_start.reserve({"layer": linear_map})
    return norms


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("masked", ["rows", "columns", "both", "neither"])
def test_estimates_stay_below_the_norm(kind: str, layer: str, masked: str) -> None:
    """Masks change from visit to visit, as crops and weights change them; no start may lift an estimate."""
    linear_map = _map(layer)
    norms = _norms(kind, linear_map)
    for visit in range(6):
        rows = _mask(linear_map.output_shape, visit) if masked in ("rows", "both") else None
        columns = _mask(linear_map.input_shape, visit + 50) if masked in ("columns", "both") else None
        like = torch.zeros(len(IMAGES), 1, dtype=torch.float64)
        exact = ExactNorms().masked("", linear_map, rows, columns, like)
        estimate = norms.of(IMAGES).masked("layer", linear_map, rows, columns, like)
        assert (estimate <= exact * (1 + 1e-12)).all()
        assert (estimate > 0.5 * exact).all()


@pytest.mark.parametrize(
    ("kind", "layer", "improves"),
    [
        ("output_side", "dense", True),
        ("per_image", "dense", True),
        ("per_image", "strided", True),
        ("output_side", "strided", False),
        ("shared", "strided", False),
    ],
)
def test_only_kept_vectors_improve_with_visits(kind: str, layer: str, improves: bool) -> None:
    linear_map = _map(layer)
    rows, columns = _mask(linear_map.output_shape, 0), _mask(linear_map.input_shape, 1)
    exact = ExactNorms().masked("", linear_map, rows, columns, rows)
    norms = _norms(kind, linear_map)
    before = norms.masked("layer", linear_map, rows, columns, rows) if layer == "strided" else None
    visits = [norms.of(IMAGES).masked("layer", linear_map, rows, columns, rows) for _ in range(40)]
    norms.eval()
    unseen = norms.of(torch.tensor([1, 2, 5, 6])).masked("layer", linear_map, rows, columns, rows)
    plain = norms.masked("layer", linear_map, rows, columns, rows)
    assert torch.equal(unseen, plain), "images that were never seen start from the shared vector"
    assert before is None or torch.equal(visits[0], before)
    assert (visits[0] < exact * (1 - 1e-6)).any(), "one iteration must not be exact for this test to mean anything"
    if improves:
        torch.testing.assert_close(visits[-1], exact, rtol=1e-3, atol=0)
        assert (visits[-1] >= visits[0] * (1 - 1e-3)).all()
    else:
        assert torch.equal(visits[-1], visits[0])


@pytest.mark.parametrize("kind", ["output_side", "per_image"])
def test_a_mask_that_removes_the_kept_vector(kind: str) -> None:
    """A start of zeros would give the norm 0 and call its image certified."""
    layer = nn.Linear(3, 3, bias=False).double()
    layer.weight.data = torch.diag(torch.tensor([5.0, 3.0, 2.0], dtype=torch.float64))
    linear_map = identity_map((3,)).after(operator(layer, (3,)))
    norms = _norms(kind, linear_map, iterations=5)
    one = torch.tensor([0])
    like = torch.zeros(1, 3, dtype=torch.float64)
    for _ in range(20):
        norms.of(one).masked("layer", linear_map, None, None, like)
    (vectors,) = norms.warm_start.state()["vectors"].values()
    assert vectors[0].abs().argmax() == 0
    mask = torch.tensor([[0.0, 1, 1]], dtype=torch.float64)
    for rows, columns in ((mask, None), (None, mask), (mask, mask)):
        estimate = norms.of(one).masked("layer", linear_map, rows, columns, like)
        torch.testing.assert_close(estimate, torch.tensor([3.0], dtype=torch.float64), rtol=1e-3, atol=0)


@pytest.mark.parametrize("kind", ["output_side", "per_image"])
def test_a_dead_map_leaves_the_vectors(kind: str) -> None:
    linear_map = _map("dense")
    rows, columns = _mask(linear_map.output_shape, 0), _mask(linear_map.input_shape, 1)
    norms = _norms(kind, linear_map)
    batch = norms.of(IMAGES)
    batch.masked("layer", linear_map, rows, columns, rows)
    kept = norms.warm_start.state()["vectors"]["layer"].clone()
    assert kept.any(dim=1).nonzero()[:, 0].tolist() == sorted(IMAGES.tolist())
    assert batch.masked("layer", linear_map, torch.zeros_like(rows), columns, rows).tolist() == [0] * len(IMAGES)
    assert torch.equal(kept, norms.warm_start.state()["vectors"]["layer"])


def test_vectors_are_kept_in_training_only() -> None:
    linear_map = _map("dense")
    rows = _mask(linear_map.output_shape, 0)
    norms = _norms("output_side", linear_map).eval()
    norms.of(IMAGES).masked("layer", linear_map, rows, None, rows)
    norms.train().masked("layer", linear_map, rows, None, rows)
    assert not any(each.any() for each in norms.warm_start.state()["vectors"].values())
    norms.of(IMAGES).masked("layer", linear_map, rows, None, rows)
    assert norms.warm_start.state()["vectors"]["layer"].any()


def _reserved(kind: str, model: nn.Module, shape: tuple[int, ...], bound: str = "local") -> WarmStart:
    warm_start = WarmStart(kind, 3)
    met = MapsMet(PowerNorms(1, "float32"))
    with torch.no_grad():
        analyze(model, torch.rand(1, *shape), 0.1, bound, met)
    warm_start.reserve(met.maps)
    return warm_start


@pytest.mark.parametrize(
    ("model", "shape", "output_side", "per_image"),
    [
        ("small", (1, 28, 28), 200, 4 * (784 + 3136 + 1568)),
        ("4c3f", (1, 28, 28), 2048, 4 * (784 + 25088 + 6272 + 12544 + 3136 + 512)),
        ("6c2f", (3, 32, 32), 1024, 454_656),  # the published 22.7 GB for 50,000 images
    ],
)
def test_bytes_an_image(model: str, shape: tuple[int, ...], output_side: int, per_image: int) -> None:
    network = build(model, shape, 10)
    assert _reserved("shared", network, shape).bytes_per_image == 0
    assert _reserved("output_side", network, shape).bytes_per_image == output_side <= LARGEST_KEPT
    everything = _reserved("per_image", network, shape)
    assert everything.bytes_per_image == per_image
    assert everything.sharing == []


def test_the_smallest_vectors_are_kept_where_not_all_fit() -> None:
    sizes = [600, 300, 500, 20]
    maps = {f"dense {size}": identity_map((7,)).after(operator(nn.Linear(7, size), (7,))) for size in sizes}
    maps["convolution"] = _map("strided")
    maps["identity"] = identity_map((9,))
    warm_start = WarmStart("output_side", 10)
    warm_start.reserve(maps)
    assert warm_start.kept == {"dense 20": 20, "dense 300": 300, "dense 500": 500}
    assert warm_start.sharing == ["dense 600", "convolution", "identity"]
    assert warm_start.bytes_per_image == 1640


@pytest.mark.parametrize("bound", ["local", "tight", "linear_split", "liplt", "global_liplt"])
@pytest.mark.parametrize("kind", ["output_side", "per_image"])
def test_every_bound_works_with_every_kind(bound: str, kind: str) -> None:
    """Maps that differ from image to image and residual blocks included; one batch twice, then new images."""
    for name in ("plain", "residual"):
        model = network(name, "clipped_relu")
        norms = PowerNorms(2, warm_start=WarmStart(kind, COUNT))
        met = MapsMet(norms)
        analyze(model, images(1), 0.1, bound, met)
        norms.warm_start.reserve(met.maps)
        exact = analyze(model, images(3), 0.1, bound, ExactNorms()).activations[0].masked_norm
        for numbers in ([0, 1, 2], [0, 1, 2], [8, 0, 5]):
            analysis = analyze(model, images(3), 0.1, bound, norms.of(torch.tensor(numbers)))
            assert (analysis.activations[0].masked_norm <= exact * (1 + 1e-12)).all()
            assert analysis.lipschitz.isfinite().all()
        assert norms.warm_start.state()["vectors"].keys() == norms.warm_start.kept.keys()


@pytest.mark.parametrize(("name", "count"), [("everything", 3), ("shared", -1)])
def test_bad_parameters_are_refused(name: str, count: int) -> None:
    with pytest.raises(ValueError, match="Expected `"):
        WarmStart(name, count)
