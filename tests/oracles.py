"""Oracles that share no code with the bounds: dense matrices by impulse response, dense SVD, small networks."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lipcert.graph import LinearMap
from lipcert.norms import MapKey


def dense_matrix(layer: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """Return the matrix of an affine layer by its response to impulses, (outputs, inputs)."""
    size = math.prod(shape)
    impulses = torch.eye(size, dtype=torch.float64).view(size, *shape)
    with torch.no_grad():
        return (layer(impulses) - layer(torch.zeros_like(impulses))).flatten(1).T


def map_matrix(linear_map: LinearMap, batch: int) -> Tensor:
    """Return the matrices of a linear map, (batch, outputs, inputs), one impulse at a time."""
    size = math.prod(linear_map.input_shape)
    impulses = torch.eye(size, dtype=torch.float64).view(size, 1, *linear_map.input_shape)
    columns = [linear_map.apply(impulse.expand(batch, *linear_map.input_shape)).flatten(1) for impulse in impulses]
    return torch.stack(columns, dim=2)


class ExactNorms:
    """Norms by dense SVD in float64; differentiable."""

    def global_norm(self, key: MapKey, linear_map: LinearMap) -> Tensor:
        return torch.linalg.matrix_norm(map_matrix(linear_map, 1), 2)

    def local_norms(self, key: MapKey, linear_map: LinearMap, rows: Tensor | None, columns: Tensor | None) -> Tensor:
        images = max([linear_map.images, *(len(mask) for mask in (rows, columns) if mask is not None)])
        matrix = map_matrix(linear_map, images)
        matrix = matrix if rows is None else matrix * rows.flatten(1)[:, :, None]
        matrix = matrix if columns is None else matrix * columns.flatten(1)[:, None, :]
        return torch.linalg.matrix_norm(matrix, 2)


def points_in_ball(images: Tensor, epsilon: float, count: int, seed: int = 0) -> Tensor:
    """Return random points of each image's ball, half of them on its surface, (count, B, *shape)."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(count, *images.shape, generator=generator, dtype=images.dtype)
    lengths = directions.flatten(2).norm(dim=2).view(count, -1, *(1 for _ in images.shape[1:]))
    radii = torch.rand(count, *lengths.shape[1:], generator=generator, dtype=images.dtype)
    radii[: count // 2] = 1
    return images + epsilon * radii * directions / lengths


def scale_weights(model: nn.Module, factor: float) -> nn.Module:
    """Multiply all weight matrices, so that random networks neither die nor explode."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.mul_(factor)
    return model
