"""Upper bounds against dense SVD, and how often they fail when they are allowed to."""

from __future__ import annotations

import copy
import math
import secrets

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lipcert.graph import LinearMap, NonFiniteBoundError
from lipcert.norms import lanczos as lanczos_module
from lipcert.norms import norm_bracket
from lipcert.norms.lanczos import SMALLEST_NORM, Tridiagonal, _exceeds, normal_starts
from tests.norms.maps import dense_map, map_of
from tests.oracles import map_matrix


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _start(seed: int) -> np.random.Generator:
    """A seeded source of start vectors."""
    return np.random.default_rng(seed)


def _alike(images: int, size: int) -> Tensor:
    """Return row masks that leave nothing out: so many independent bounds of one norm."""
    return torch.ones(images, size, dtype=torch.float64)


def _upper_bound(
    linear_map: LinearMap,
    steps: int,
    failure_probability: float,
    rows: Tensor | None = None,
    columns: Tensor | None = None,
    generator: np.random.Generator | None = None,
) -> Tensor:
    """Return upper bounds by Lanczos, (B,)."""
    return norm_bracket(linear_map, steps, failure_probability, rows, columns, generator).upper


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
    linear_map = map_of(layer, shape)
    generator = _seeded()
    rows = (torch.rand(40, *linear_map.output_shape, generator=generator) < 0.6).double()
    columns = (torch.rand(40, *shape, generator=generator) < 0.6).double()
    with torch.no_grad():
        bound = _upper_bound(linear_map, steps, 1e-9, rows, columns, _start(1))
        exact = _exact(linear_map, rows, columns)
    assert (bound >= exact).all()
    if steps == 60:
        assert (bound <= 1.02 * exact).all()


@pytest.mark.parametrize("steps", [4, 12, 30])
def test_failure_rate_is_the_stated_one(steps: int) -> None:
    """At delta = 0.2 one bound in five may fail; many fewer would show a loose statement."""
    draws, delta = 3000 if steps == 12 else 1000, 0.2
    matrix = torch.randn(30, 40, generator=_seeded(3), dtype=torch.float64)
    exact = torch.linalg.matrix_norm(matrix, 2)
    bound = _upper_bound(dense_map(matrix), steps, delta, _alike(draws, 30), generator=_start(4))
    failures = (bound < exact).double().mean().item()
    deviation = math.sqrt(delta * (1 - delta) / draws)
    assert failures <= delta + 4 * deviation
    if steps == 12:  # most of v1 lies in the Krylov space, so one of its components is not far below 1
        assert failures >= delta / 4


FEW_OPERATIONS = {
    "one channel": (nn.Linear(1, 1, bias=False), (9, 1), 500),
    "pointwise": (nn.Linear(2, 3, bias=False), (8, 2), 500),
    "pointwise convolution": (nn.Conv2d(2, 3, 1, bias=False), (2, 3, 3), 200),
    "depthwise convolution": (nn.Conv2d(3, 3, 2, groups=3, bias=False), (3, 3, 3), 200),
}


@pytest.mark.parametrize("name", FEW_OPERATIONS)
@pytest.mark.parametrize("scale", [1.0, 1e-25])
def test_failure_rate_of_maps_with_few_operations(name: str, scale: float) -> None:
    """Their Krylov spaces are exhausted within a few steps, where a remainder is nothing but rounding."""
    layer, shape, draws = FEW_OPERATIONS[name]
    layer = copy.deepcopy(layer).double()
    nn.init.normal_(layer.weight, generator=_seeded(10))
    layer.weight.data *= scale
    linear_map = map_of(layer, shape)
    delta, size = 0.2, math.prod(linear_map.output_shape)
    with torch.no_grad():
        exact = torch.linalg.matrix_norm(map_matrix(linear_map, 1)[0] / scale, 2) * scale
        alike = torch.ones(draws, *linear_map.output_shape, dtype=torch.float64)
        bound = _upper_bound(linear_map, 10, delta, alike, generator=_start(size))
    assert (bound < exact * (1 - 1e-12)).double().mean() <= delta + 4 * math.sqrt(delta * (1 - delta) / draws)
    with torch.no_grad():
        certain = _upper_bound(linear_map, 10, 1e-9, alike, generator=_start(size))
    assert (certain >= exact * (1 - 1e-12)).all()


def test_a_remainder_raised_to_the_smallest_one_refutes_nothing() -> None:
    """A start nearly orthogonal to v: what is left of A q is below `BREAKDOWN`, and so is what a raise of it hides.

    A = diag(1, 2), q = (1, c): β = c up to c², and the component on v is c; the eigenvalue 2 is not to be refuted.
    """
    for component in (0.9e-14, 5e-15, 2e-15):
        tridiagonal = Tridiagonal(
            torch.ones(1, 1, dtype=torch.float64), torch.full((1, 1), component, dtype=torch.float64), torch.ones(1)
        )
        known = torch.full((1, 1), component, dtype=torch.float64)
        points = torch.tensor([[1.5, 2.0]], dtype=torch.float64)
        assert not _exceeds(tridiagonal, points, known, torch.zeros(1, 1, dtype=torch.float64)).any()


def test_failure_rate_falls_with_delta() -> None:
    matrix = torch.randn(20, 20, generator=_seeded(5), dtype=torch.float64)
    exact = torch.linalg.matrix_norm(matrix, 2)
    for delta in (0.05, 0.01):
        bound = _upper_bound(dense_map(matrix), 4, delta, _alike(3000, 20), generator=_start(6))
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
    bound = _upper_bound(dense_map(matrix), 40, 1e-9, _alike(50, 24), generator=_start(2))
    exact = torch.linalg.matrix_norm(matrix / scale, 2) * scale
    assert (bound >= exact * (1 - 1e-12)).all()
    assert (bound <= exact * 1.001).all()


def test_zero_operators_and_empty_masks_have_norm_zero() -> None:
    linear_map = dense_map(torch.randn(4, 6))
    rows = torch.tensor([[0.0] * 4, [1.0] * 4], dtype=torch.float64)
    columns = torch.ones(2, 6, dtype=torch.float64)
    bound = _upper_bound(linear_map, 10, 1e-9, rows, columns)
    assert bound[0] == SMALLEST_NORM
    assert bound[1] > 0
    assert _upper_bound(dense_map(torch.zeros(4, 6)), 10, 1e-9).item() == SMALLEST_NORM


def test_one_step_bounds_nothing_but_is_sound() -> None:
    bound = _upper_bound(dense_map(torch.eye(5) + torch.ones(5, 5)), 1, 1e-9, _alike(3, 5))
    assert (bound >= 6.0).all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_non_finite_weights_raise(value: float) -> None:
    matrix = torch.ones(3, 3)
    matrix[1, 1] = value
    with pytest.raises(NonFiniteBoundError, match="NaN or infinity"):
        _upper_bound(dense_map(matrix), 5, 1e-9)


@pytest.mark.parametrize(
    ("steps", "delta", "dtype", "words"),
    [
        (0, 1e-9, torch.float64, "steps"),
        (5, 0.0, torch.float64, "failure_probability"),
        (5, 1.0, torch.float64, "failure_probability"),
        (5, math.nan, torch.float64, "failure_probability"),
        (5, 1e-9, torch.float32, "float64"),
    ],
)
def test_bad_parameters_are_refused(steps: int, delta: float, dtype: torch.dtype, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        _upper_bound(map_of(nn.Linear(3, 3).to(dtype), (3,)), steps, delta)


def test_start_vectors_are_fresh() -> None:
    """Nobody who knows the code can know the start: two calls differ, and torch's global seed does not matter."""
    linear_map = dense_map(torch.randn(20, 20, generator=_seeded(8)))
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        results.append(_upper_bound(linear_map, 8, 1e-9).item())
    assert results[0] != results[1]


def test_starts_side_by_side_or_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    large = dense_map(torch.randn(60, 80, generator=_seeded(2)))
    masks = [torch.rand(3, size, generator=_seeded(size)).gt(0.3).double() for size in (60, 80)]
    bounds = []
    for entries in (0, 2**20):
        monkeypatch.setattr(lanczos_module, "LARGEST_TOGETHER", entries)
        bounds.append(_upper_bound(large, 12, 1e-9, *masks, generator=_start(5)))
    torch.testing.assert_close(*bounds)


def test_vanishing_norms_stay_above_the_truth() -> None:
    matrix = torch.randn(60, 60, generator=_seeded(9), dtype=torch.float64)
    exact = torch.linalg.matrix_norm(matrix, 2)
    for scale in (1e-59, 1e-70, 1e-82, 1e-100, 1e-170, 1e-300):
        assert _upper_bound(dense_map(matrix * scale), 20, 1e-9).item() >= exact * scale * (1 - 1e-12)


@pytest.mark.parametrize(("device", "keys"), [("cpu", [128]), ("cuda", [64, 64])])
def test_starts_have_keys_of_the_operating_system_together_of_128_bits(
    device: str, keys: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    drawn, generator, randbits = torch.randn, torch.Generator, secrets.randbits
    monkeypatch.setattr(torch, "Generator", lambda place: generator("cpu"))
    monkeypatch.setattr(torch, "randn", lambda *shape, device, **named: drawn(*shape, **named))
    monkeypatch.setattr(secrets, "randbits", lambda bits: asked.append(bits) or randbits(bits))
    first, second = (normal_starts((3, 200), torch.device(device)) for _ in range(2))
    assert asked == 2 * keys
    assert first.shape == (2, 3, 200)
    assert first.dtype == torch.float64
    different = torch.cat([first, second]).flatten(1).unique(dim=0)
    assert len(different) == 4
    assert abs(different.mean()) < 0.15 < 0.9 < different.std() < 1.1
