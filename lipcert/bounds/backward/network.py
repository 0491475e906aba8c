"""From a tree of layers to nodes: one rule a layer type."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import singledispatch

import torch
from torch import Tensor, nn

from lipcert.bounds.backward.nodes import Affine, Box, Clamp, Node, Sum
from lipcert.bounds.backward.pairs import Difference, Spread, Swap, difference_box, half
from lipcert.bounds.errors import UnsupportedLayerError
from lipcert.bounds.operators import Operator, Shape, operator
from lipcert.bounds.rules import joined_name
from lipcert.nn import ClippedMaxMin, ClippedReLU, MaxMin, Normalize, Residual
from lipcert.nn.activations import max_min


@dataclass(frozen=True)
class Path:
    """The nodes from the image to a place in the network, and the shape there; `like` gives dtype and device."""

    nodes: tuple[Node, ...]
    shape: Shape
    like: Tensor

    def then(self, node: Node, shape: Shape) -> Path:
        return replace(self, nodes=(*self.nodes, node), shape=shape)

    def through(self, affine: Operator) -> Path:
        return self.then(Affine(affine), affine.output_shape)

    def clamp(self, name: str, low: Tensor, high: Tensor, box_of: object = None) -> Path:
        node = Clamp(name, self.shape, low, high, box_of or _same, self.nodes)  # type: ignore[arg-type]
        return self.then(node, self.shape)

    def filled(self, value: float) -> Tensor:
        """Return a tensor (1, *shape) of one number."""
        return self.like.new_full((1, *self.shape), value)


def _same(box: Box) -> Box:
    return box


def _sorted(box: Box) -> Box:
    return max_min(box[0]), max_min(box[1])


def nodes_of(model: nn.Module, images: Tensor) -> tuple[Node, ...]:
    """Return the nodes of a tree of supported layers for images (B, ...).

    Only layers that `analyze` has accepted are what their types say; this function does not check them again.

    Raises:
        UnsupportedLayerError: naming a layer without a rule.
    """
    return _extend(model, Path((), tuple(images.shape[1:]), images.detach()), "").nodes


@singledispatch
def _extend(layer: nn.Module, path: Path, name: str) -> Path:
    """Return the path through `layer`."""
    raise UnsupportedLayerError(
        f"Layer {name or 'model'!r} is a {type(layer).__name__}, which has no backward linear bound."
    )


@_extend.register
def _(layer: nn.Sequential, path: Path, name: str) -> Path:
    for key, child in layer._modules.items():
        if child is not None:
            path = _extend(child, path, joined_name(name, key))
    return path


@_extend.register
def _(layer: Residual, path: Path, name: str) -> Path:
    branch = _extend(layer.branch, path, joined_name(name, "branch"))
    shortcut = _extend(layer.shortcut, path, joined_name(name, "shortcut"))
    start = len(path.nodes)
    return path.then(Sum(branch.nodes[start:], shortcut.nodes[start:]), branch.shape)


@_extend.register(nn.Linear)
@_extend.register(nn.Conv2d)
@_extend.register(nn.Flatten)
@_extend.register(nn.Identity)
@_extend.register(nn.Dropout)
@_extend.register(nn.Dropout1d)
@_extend.register(nn.Dropout2d)
@_extend.register(nn.AvgPool2d)
@_extend.register(nn.BatchNorm1d)
@_extend.register(nn.BatchNorm2d)
@_extend.register(Normalize)
def _(layer: nn.Module, path: Path, name: str) -> Path:
    return path.through(operator(layer, path.shape))


@_extend.register
def _(layer: nn.ReLU, path: Path, name: str) -> Path:
    return path.clamp(name, path.filled(0), path.filled(torch.inf))


@_extend.register
def _(layer: ClippedReLU, path: Path, name: str) -> Path:
    high = layer.threshold.expand(1, *path.shape)
    return path.clamp(name, high.clamp_max(0), high)


def _sort_pairs(path: Path, name: str) -> Path:
    differences = path.through(Difference(path.shape, half(path.shape)))
    ordered = differences.clamp(name, differences.filled(0), differences.filled(torch.inf), difference_box)
    branch = ordered.through(Spread(half(path.shape), path.shape))
    return path.then(Sum(branch.nodes[len(path.nodes) :], (Affine(Swap(path.shape, path.shape)),)), path.shape)


@_extend.register
def _(layer: MaxMin, path: Path, name: str) -> Path:
    return _sort_pairs(path, name)


@_extend.register
def _(layer: ClippedMaxMin, path: Path, name: str) -> Path:
    pairs = (1, *half(path.shape))
    free = path.like.new_full(pairs, torch.inf)
    low = torch.cat((-free, layer.min.expand(pairs)), dim=1)
    high = torch.cat((layer.max.expand(pairs), free), dim=1)
    return _sort_pairs(path, name).clamp(name, low, high, _sorted)
