"""Upper bounds against dense SVD, and how often they fail when they are allowed to."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lipcert.bounds import NonFiniteBoundError, UpperNorms, norm_upper_bound
from lipcert.bounds import lanczos as lanczos_module
from lipcert.bounds.bracket import SMALLEST_NORM
from lipcert.bounds.lanczos import fresh_generator
from lipcert.bounds.linear_map import LinearMap, identity_map
from lipcert.bounds.operators import operator
from tests.oracles import map_matrix


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _start(seed: int) -> np.random.Generator:
    """A seeded source of start vectors."""
    return np.random.default_rng(seed)


def _dense_map(matrix: Tensor) -> LinearMap:
    layer = nn.Linear(matrix.shape[1], matrix.shape[0], bias=False).double()
    layer.weight = nn.Parameter(matrix.double(), requires_grad=False)
    return identity_map((matrix.shape[1],)).after(operator(layer, (matrix.shape[1],)))


def _like(batch: int) -> Tensor:
    return torch.zeros(batch, 1, dtype=torch.float64)


def _exact(linear_map: LinearMap, rows: Tensor, columns: Tensor) -> Tensor:
    matrix = map_matrix(linear_map, len(rows)) * rows.flatten(1)[:, :, None] * columns.flatten(1)[:, None, :]
    return torch.linalg.matrix_norm(matrix, 2)


CONVOLUTIONS = {
    "plain": nn.Conv2d(3, 5, 3, 1, 1),
    "strided": nn.Conv2d(3, 8, 4, 2, 1),
    "grouped, dilated": nn.Conv2d(4, 6, 3, 1, 2, dilation=2, groups=2),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("steps", [5, 20, 60])
def test_masked_convolutions_are_bounded_from_above(name: str, steps: int) -> None:
    layer = CONVOLUTIONS[name].double()
    shape = (layer.in_channels, 7, 7)
    linear_map = identity_map(shape).after(operator(layer, shape))
    generator = _seeded()
    rows = (torch.rand(40, *linear_map.output_shape, generator=generator) < 0.6).double()
    columns = (torch.rand(40, *shape, generator=generator) < 0.6).double()
    with torch.no_grad():
        bound = norm_upper_bound(linear_map, _like(40), steps, 1e-9, rows, columns, _start(1))
        exact = _exact(linear_map, rows, columns)
    assert (bound >= exact).all()
    if steps == 60:
        assert (bound <= 1.02 * exact).all()


@pytest.mark.parametrize("steps", [4, 12, 30])
def test_failure_rate_is_the_stated_one(steps: int) -> None:
    """At delta = 0.2 one bound in five may fail; many fewer would show a loose statement."""
    draws, delta = 3000, 0.2
    matrix = torch.randn(30, 40, generator=_seeded(3), dtype=torch.float64)
    exact = torch.linalg.matrix_norm(matrix, 2)
    bound = norm_upper_bound(_dense_map(matrix), _like(draws), steps, delta, generator=_start(4))
    failures = (bound < exact).double().mean().item()
    deviation = math.sqrt(delta * (1 - delta) / draws)
    assert failures <= delta + 4 * deviation
    if steps == 12:  # most of v1 lies in the Krylov space, so one of its components is not far below 1
        assert failures >= delta / 4


def test_failure_rate_falls_with_delta() -> None:
    matrix = torch.randn(20, 20, generator=_seeded(5), dtype=torch.float64)
    exact = torch.linalg.matrix_norm(matrix, 2)
    for delta in (0.05, 0.01):
        bound = norm_upper_bound(_dense_map(matrix), _like(3000), 4, delta, generator=_start(6))
        assert (bound < exact).double().mean().item() <= delta + 4 * math.sqrt(delta / 3000)


@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e20, 1e-40, 1e40])
@pytest.mark.parametrize("kind", ["rank one", "duplicated", "nearly equal", "identity", "one entry", "generic"])
def test_difficult_spectra(kind: str, scale: float) -> None:
    generator = _seeded(7)
    left, right = (torch.linalg.qr(torch.randn(24, 24, generator=generator, dtype=torch.float64)).Q for _ in range(2))
    values = {
        "rank one": torch.eye(24)[0],
        "duplicated": torch.cat((torch.ones(12), torch.full((12,), 0.5))),
        "nearly equal": 1 - 1e-10 * torch.arange(24),
        "identity": torch.ones(24),
        "one entry": torch.eye(24)[0],
        "generic": torch.linspace(1, 0, 24),
    }[kind].double()
    matrix = torch.diag(values) if kind in ("identity", "one entry") else left @ torch.diag(values) @ right
    matrix = matrix * scale
    bound = norm_upper_bound(_dense_map(matrix), _like(50), 40, 1e-9, generator=_start(2))
    exact = torch.linalg.matrix_norm(matrix / scale, 2) * scale
    assert (bound >= exact * (1 - 1e-12)).all()
    assert (bound <= exact * 1.001).all()


def test_zero_operators_and_empty_masks_have_norm_zero() -> None:
    linear_map = _dense_map(torch.randn(4, 6))
    rows = torch.tensor([[0.0] * 4, [1.0] * 4], dtype=torch.float64)
    columns = torch.ones(2, 6, dtype=torch.float64)
    bound = norm_upper_bound(linear_map, _like(2), 10, 1e-9, rows, columns)
    assert bound[0] == SMALLEST_NORM
    assert bound[1] > 0
    assert norm_upper_bound(_dense_map(torch.zeros(4, 6)), _like(1), 10, 1e-9).item() == SMALLEST_NORM


def test_one_step_bounds_nothing_but_is_sound() -> None:
    bound = norm_upper_bound(_dense_map(torch.eye(5) + torch.ones(5, 5)), _like(3), 1, 1e-9)
    assert (bound >= 6.0).all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_non_finite_weights_raise(value: float) -> None:
    matrix = torch.ones(3, 3)
    matrix[1, 1] = value
    with pytest.raises(NonFiniteBoundError, match="NaN or infinity"):
        norm_upper_bound(_dense_map(matrix), _like(1), 5, 1e-9)


@pytest.mark.parametrize(
    ("steps", "delta", "like", "words"),
    [
        (0, 1e-9, _like(1), "steps"),
        (5, 0.0, _like(1), "failure_probability"),
        (5, 1.0, _like(1), "failure_probability"),
        (5, math.nan, _like(1), "failure_probability"),
        (5, 1e-9, torch.zeros(1, 1), "float64"),
    ],
)
def test_bad_parameters_are_refused(steps: int, delta: float, like: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        norm_upper_bound(_dense_map(torch.eye(3)), like, steps, delta)


def test_start_vectors_are_fresh() -> None:
    """Nobody who knows the code can know the start: two calls differ, and torch's global seed does not matter."""
    linear_map = _dense_map(torch.randn(20, 20, generator=_seeded(8)))
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        results.append(norm_upper_bound(linear_map, _like(1), 8, 1e-9).item())
    assert results[0] != results[1]


def test_norms_that_may_fail_count_for_the_union_bound_and_global_ones_are_kept() -> None:
    norms = UpperNorms(steps=10, failure_probability=1e-6, generator=_start(0))
    large = _dense_map(torch.randn(150, 160, generator=_seeded(1)))
    first = norms.whole("layer", large, _like(7))
    assert torch.equal(first, norms.whole("layer", large, _like(7)))
    assert norms.bounded == 1
    norms.masked("layer", large, torch.eye(7, 150).double(), None, _like(7))
    assert norms.bounded == 8
    assert norms.union_failure_probability == pytest.approx(8e-6)
    norms.masked("small", _dense_map(torch.randn(5, 160, generator=_seeded(1))), None, None, _like(7))
    assert norms.bounded == 8  # exact


def test_where_everything_varies_the_global_norm_serves() -> None:
    large = _dense_map(torch.randn(150, 160, generator=_seeded(1)))
    norms = UpperNorms(steps=10, worth=0.02)
    whole = norms.whole("layer", large, _like(3))
    rows = torch.ones(3, 150, dtype=torch.float64)
    rows[1, :2], rows[2, :3] = 0, 0  # less and more than 2 % constant
    assert torch.equal(norms.masked("layer", large, None, None, _like(3)), whole.expand(3))
    assert norms.bounded == 1
    found = norms.masked("layer", large, rows, torch.ones(3, 160).double(), _like(3))
    assert norms.bounded == 2
    assert torch.equal(found[:2], whole.expand(2))
    assert found[2] <= whole
    norms.worth = 0.0
    again = norms.masked("layer", large, rows, None, _like(3))
    assert norms.bounded == 4
    assert again[0] == whole
    exact = torch.linalg.matrix_norm(rows[:, :, None] * large.matrix(_like(1)), 2)
    assert (torch.minimum(found, again) >= exact).all()


def test_another_map_of_the_same_name_and_shape_is_bounded_itself() -> None:
    weights = torch.randn(150, 160, generator=_seeded(1))
    norms = UpperNorms(steps=60)
    norms.whole("layer", _dense_map(weights), _like(1))
    for other in (10 * weights, weights + torch.eye(150, 160)):
        exact = torch.linalg.matrix_norm(other.double(), 2)
        assert norms.masked("layer", _dense_map(other), None, None, _like(1)).item() >= exact
    assert norms.bounded == 3


def test_starts_side_by_side_or_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    large = _dense_map(torch.randn(60, 80, generator=_seeded(2)))
    masks = [torch.rand(3, size, generator=_seeded(size)).gt(0.3).double() for size in (60, 80)]
    bounds = []
    for entries in (0, 2**20):
        monkeypatch.setattr(lanczos_module, "LARGEST_TOGETHER", entries)
        bounds.append(norm_upper_bound(large, _like(3), 12, 1e-9, *masks, generator=_start(5)))
    torch.testing.assert_close(*bounds)


def test_norms_are_kept_by_shape_too() -> None:
    """One convolution has another norm on larger images."""
    norms = UpperNorms()
    layer = nn.Conv2d(1, 1, 4, 2, 1).double()
    kept = [
        norms.whole("0", identity_map(shape).after(operator(layer, shape)), _like(1)).item()
        for shape in ((1, 4, 4), (1, 9, 9))
    ]
    assert kept[0] != kept[1]


def test_vanishing_norms_stay_above_the_truth() -> None:
    matrix = torch.randn(60, 60, generator=_seeded(9), dtype=torch.float64)
    exact = torch.linalg.matrix_norm(matrix, 2)
    for scale in (1e-59, 1e-70, 1e-82, 1e-100, 1e-170, 1e-300):
        assert norm_upper_bound(_dense_map(matrix * scale), _like(1), 20, 1e-9).item() >= exact * scale * (1 - 1e-12)


def test_start_vectors_have_more_than_64_bits_of_key() -> None:
    key = fresh_generator().bit_generator.state["state"]["key"]
    assert len(key) == 2
    assert all(int(word) > 0 for word in key)
