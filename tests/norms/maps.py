"""Linear maps of single layers, and keys of maps that belong to no graph."""

from __future__ import annotations

import torch
from torch import nn

from lipcert.graph import LinearMap, operator
from lipcert.graph import map_of as map_of_operator
from lipcert.norms import MapKey


def map_of(layer: nn.Module, shape: tuple[int, ...]) -> LinearMap:
    """Return the map of an affine layer on (B, *shape), in the dtype of its weights."""
    (weight, *_) = layer.parameters()
    return map_of_operator(operator(layer, shape), weight)


def dense_map(matrix: torch.Tensor) -> LinearMap:
    """Return the map of a matrix, in float64."""
    layer = nn.Linear(matrix.shape[1], matrix.shape[0], bias=False).double()
    layer.weight = nn.Parameter(matrix.double(), requires_grad=False)
    return map_of(layer, (matrix.shape[1],))


def key(name: str = "layer", graph: int | None = None, source: int = 0, target: int = 1) -> MapKey:
    """Return a key; with a number for `graph`, that of a map whose weights do not change."""
    return MapKey(graph, source, target, across=False, name=name)
