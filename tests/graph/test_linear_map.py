"""Linear maps against dense matrices made by hand: products, sums, adjoints, masks, absolute values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lipcert.graph import LinearMap, map_of, operator, scaling
from lipcert.graph.operators import largest_absolute
from tests.oracles import dense_matrix, map_matrix

SHAPE = (2, 5, 4)
BATCH = 3
ORIGIN = torch.zeros(0, dtype=torch.float64)


def _layers() -> tuple[nn.Module, nn.Module, nn.Module]:
    torch.manual_seed(0)
    return nn.Conv2d(2, 3, 3, 2, 1).double(), nn.Conv2d(3, 4, 2).double(), nn.Conv2d(2, 4, 2, 2).double()


def _chain() -> tuple[LinearMap, Tensor]:
    """Return the map of two convolutions in a row and its matrix."""
    first, second, _ = _layers()
    linear_map = map_of(operator(first, SHAPE), ORIGIN).after(operator(second, (3, 3, 2)))
    return linear_map, dense_matrix(second, (3, 3, 2)) @ dense_matrix(first, SHAPE)


def _sum() -> tuple[LinearMap, Tensor]:
    """Return the sum of the chain with one convolution, on the same input, and a third layer behind it."""
    chain, matrix = _chain()
    shortcut = nn.Conv2d(2, 4, (4, 4)).double()
    added = chain.plus(map_of(operator(shortcut, SHAPE), ORIGIN))
    last = nn.Conv2d(4, 2, 1).double()
    linear_map = added.after(operator(last, added.output_shape))
    return linear_map, dense_matrix(last, added.output_shape) @ (matrix + dense_matrix(shortcut, SHAPE))


def _identity() -> tuple[LinearMap, Tensor]:
    return LinearMap(SHAPE, SHAPE, ORIGIN), torch.eye(40).double()


MAPS = {"identity": _identity, "chain": _chain, "sum": _sum}


@pytest.fixture(params=MAPS)
def case(request: pytest.FixtureRequest) -> tuple[LinearMap, Tensor]:
    return MAPS[request.param]()


def _mask(shape: tuple[int, ...], seed: int) -> Tensor:
    return (torch.rand(BATCH, *shape, generator=torch.Generator().manual_seed(seed)) < 0.6).double()


def _columns(linear_map: LinearMap) -> Tensor:
    """Return the matrix of the adjoint, (B, inputs, outputs)."""
    size = torch.Size(linear_map.output_shape).numel()
    units = torch.eye(size, dtype=torch.float64).view(size, 1, *linear_map.output_shape)
    return torch.stack(
        [linear_map.adjoint(unit.expand(BATCH, *linear_map.output_shape)).flatten(1) for unit in units], dim=2
    )


def test_apply_and_adjoint(case: tuple[LinearMap, Tensor]) -> None:
    linear_map, matrix = case
    torch.testing.assert_close(map_matrix(linear_map, 1)[0], matrix)
    torch.testing.assert_close(_columns(linear_map)[0], matrix.T)
    assert not linear_map.per_image
    assert linear_map.images == 1


@pytest.mark.parametrize("side", ["rows", "columns", "both"])
def test_restricted(case: tuple[LinearMap, Tensor], side: str) -> None:
    """Inputs of `apply` and `adjoint` lie inside the masks, which are taken off outputs alone."""
    linear_map, matrix = case
    rows = _mask(linear_map.output_shape, 1) if side != "columns" else None
    columns = _mask(linear_map.input_shape, 2) if side != "rows" else None
    masked = linear_map.restricted(rows, columns)
    expected = matrix.expand(BATCH, *matrix.shape)
    expected = expected if rows is None else rows.flatten(1)[:, :, None] * expected
    both = expected if columns is None else expected * columns.flatten(1)[:, None]
    only_columns = matrix if columns is None else matrix * columns.flatten(1)[:, None]
    torch.testing.assert_close(map_matrix(masked, BATCH), expected)
    torch.testing.assert_close(_columns(masked), only_columns.expand_as(both).mT)
    assert masked.per_image
    assert masked.images == BATCH
    inputs = torch.randn(BATCH, *linear_map.input_shape, dtype=torch.float64)
    inside = inputs if columns is None else inputs * columns
    torch.testing.assert_close(masked.apply(inside).flatten(1), (both @ inputs.flatten(1)[:, :, None])[..., 0])


def test_absolute_of_one_layer_is_entrywise() -> None:
    layer, *_ = _layers()
    linear_map = map_of(operator(layer, SHAPE), ORIGIN)
    matrix = dense_matrix(layer, SHAPE)
    torch.testing.assert_close(map_matrix(linear_map.absolute(), 1)[0], matrix.abs())
    torch.testing.assert_close(_columns(linear_map.absolute())[0], matrix.abs().T)


def test_absolute_of_a_product_is_the_product_of_absolutes() -> None:
    first, second, _ = _layers()
    chain, matrix = _chain()
    found = map_matrix(chain.absolute(), 1)[0]
    expected = dense_matrix(second, (3, 3, 2)).abs() @ dense_matrix(first, SHAPE).abs()
    torch.testing.assert_close(found, expected)
    assert (found >= matrix.abs() - 1e-12).all()


def test_absolute_of_a_sum_is_no_smaller_than_its_entries() -> None:
    linear_map, matrix = _sum()
    found = map_matrix(linear_map.absolute(), 1)[0]
    assert (found >= matrix.abs() - 1e-12).all()
    assert (found > 1.01 * matrix.abs()).any()


def test_absolute_keeps_masks() -> None:
    linear_map, _ = _chain()
    rows, columns = _mask(linear_map.output_shape, 1), _mask(linear_map.input_shape, 2)
    masked = map_matrix(linear_map.restricted(rows, columns).absolute(), BATCH)
    torch.testing.assert_close(masked, rows.flatten(1)[:, :, None] * map_matrix(linear_map.absolute(), 1))


def test_largest_absolute_is_above_the_norm_of_the_absolute_matrix(case: tuple[LinearMap, Tensor]) -> None:
    linear_map, matrix = case
    absolute = map_matrix(linear_map.absolute(), 1)[0]
    expected = (absolute.sum(dim=1).max() * absolute.sum(dim=0).max()).sqrt()
    found = largest_absolute(linear_map)
    assert found.item() == pytest.approx(expected.item())
    assert found >= torch.linalg.matrix_norm(absolute, 2) * (1 - 1e-12) >= torch.linalg.matrix_norm(matrix, 2) - 1e-9


def test_maps_that_differ_from_image_to_image() -> None:
    scale = torch.rand(BATCH, *SHAPE, dtype=torch.float64)
    layer, _, _ = _layers()
    linear_map = map_of(scaling(SHAPE, scale, per_image=True), ORIGIN).after(operator(layer, SHAPE))
    expected = dense_matrix(layer, SHAPE) * scale.flatten(1)[:, None]
    assert (linear_map.per_image, linear_map.images) == (True, BATCH)
    torch.testing.assert_close(map_matrix(linear_map, BATCH), expected)
    torch.testing.assert_close(_columns(linear_map), expected.mT)
    total = linear_map.plus(map_of(operator(layer, SHAPE), ORIGIN))
    assert (total.per_image, total.images) == (True, BATCH)
    torch.testing.assert_close(map_matrix(total, BATCH), expected + dense_matrix(layer, SHAPE))
    torch.testing.assert_close(_columns(total), (expected + dense_matrix(layer, SHAPE)).mT)


def test_matrix_of_a_map_onto_classes() -> None:
    layers = nn.Sequential(nn.Conv2d(2, 3, 3, 2, 1), nn.Flatten(), nn.Linear(18, 4)).double()
    linear_map = LinearMap(SHAPE, SHAPE, ORIGIN)
    for layer in layers:
        linear_map = linear_map.after(operator(layer, linear_map.output_shape))
    torch.testing.assert_close(linear_map.matrix(), dense_matrix(layers, SHAPE))


def test_roundings_forward_and_backward_are_counted_apart() -> None:
    """Forward the inputs of each entry and its bias, (3 + 1) + (2 + 1); backward the outputs, 2 + 4."""
    linear_map = map_of(operator(nn.Linear(3, 2), (3,)), torch.zeros(0))
    assert linear_map.after(operator(nn.Linear(2, 4), (2,))).roundings == (7, 6)
