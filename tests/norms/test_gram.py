"""Starts from M Mᵀ: for wide dense maps alone, near the leading vector, made anew now and then, restored exactly."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from lipcert.graph import LinearMap
from lipcert.norms import PowerNorms
from lipcert.norms.estimate import EVERY, Grams
from lipcert.norms.krylov import leading_vector
from tests.norms.maps import key, map_of

BATCH = 5


def _wide(seed: int = 0) -> tuple[nn.Linear, LinearMap]:
    torch.manual_seed(seed)
    layer = nn.Linear(90, 20).double()
    return layer, map_of(layer, (90,))


def _mask(size: int, share: float, seed: int) -> Tensor:
    return (torch.rand(BATCH, size, generator=torch.Generator().manual_seed(seed)) < share).double()


def test_leading_vector_is_that_of_the_masked_matrix() -> None:
    layer, _ = _wide()
    gram = (layer.weight @ layer.weight.T).detach()
    rows = _mask(20, 0.6, 1)
    found = leading_vector(gram, rows, rows, 20)
    for mask, vector in zip(rows, found, strict=True):
        eigenvalues, eigenvectors = torch.linalg.eigh(mask[:, None] * gram * mask)
        torch.testing.assert_close(vector @ gram @ vector / vector.square().sum(), eigenvalues[-1])
        cosine = (vector @ eigenvectors[:, -1]).abs() / vector.norm()
        torch.testing.assert_close(cosine, torch.ones((), dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize("columns", [1.0, 0.9, 0.4])
def test_estimates_stay_below_and_come_close(columns: float) -> None:
    layer, linear_map = _wide()
    row_mask, column_mask = _mask(20, 0.6, 1), _mask(90, columns, 2)
    estimate = PowerNorms(5).local_norms(key("dense"), linear_map, row_mask, column_mask)
    masked = row_mask[:, :, None] * layer.weight * column_mask[:, None, :]
    exact = torch.linalg.matrix_norm(masked, ord=2)
    assert (estimate <= exact * (1 + 1e-12)).all()
    assert (estimate >= exact * {1.0: 0.999, 0.9: 0.95, 0.4: 0.75}[columns]).all()


def test_which_maps_have_one() -> None:
    grams = Grams()
    square, convolution = nn.Linear(20, 20), nn.Conv2d(1, 1, 3)
    assert grams.of("square", map_of(square, (20,)), keep=True) is None
    assert grams.of("convolution", map_of(convolution, (1, 9, 9)), keep=True) is None
    _, wide = _wide()
    assert grams.of("masked", wide.restricted(torch.ones(1, 20), None), keep=True) is None
    gram = grams.of("wide", wide, keep=True)
    assert gram is not None
    assert gram.shape == (20, 20)


def test_matrices_are_made_anew_now_and_then() -> None:
    layer, wide = _wide()
    grams = Grams()
    first = grams.of("wide", wide, keep=True)
    expected = layer.weight @ layer.weight.T
    torch.testing.assert_close(first, expected)
    with torch.no_grad():
        layer.weight.mul_(2)
    later = [grams.of("wide", wide, keep=True) for _ in range(EVERY)]
    assert all(torch.equal(each, first) for each in later[:-1])
    torch.testing.assert_close(later[-1], 4 * expected)


def test_uses_outside_of_training_leave_no_trace() -> None:
    _, wide = _wide()
    grams = Grams()
    grams.of("wide", wide, keep=False)
    assert grams.state() == {}


def _used_and_restored() -> tuple[nn.Linear, LinearMap, Grams, Grams]:
    """Return a layer, its map, matrices after three uses, and the same from a checkpoint."""
    layer, wide = _wide()
    grams, restored = Grams(), Grams()
    for _ in range(3):
        grams.of("wide", wide, keep=True)
    restored.load(grams.state())
    return layer, wide, grams, restored


def test_matrices_are_restored() -> None:
    layer, wide, grams, restored = _used_and_restored()
    with torch.no_grad():
        layer.weight.mul_(2)
    pairs = [[each.of("wide", wide, keep=True) for each in (grams, restored)] for _ in range(EVERY)]
    assert all(torch.equal(first, second) for first, second in pairs)
    assert not torch.equal(pairs[0][0], pairs[-1][0])


def test_matrices_restored_on_another_device_go_on_counting() -> None:
    """Checkpoints are loaded onto the CPU; `meta` stands for a GPU."""
    _, wide, grams, restored = _used_and_restored()
    gram = restored.of("wide", replace(wide, origin=wide.origin.to("meta")), keep=True)
    assert gram is not None
    assert gram.device.type == "meta"
    assert restored.state()["wide"]["left"] == grams.state()["wide"]["left"] - 1
