"""A network as affine maps, clamps and sums: all that a backward pass has to know of layers.

MaxMin is an affine map of its input and of relu(a - b) for every pair (a, b), so one nonlinear node serves every
activation: the elementwise clamp min(max(z, low), high), either end possibly infinite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from lipcert.bounds.operators import Operator, Shape

Box = tuple[Tensor, Tensor]
"""Lower and upper bounds of every neuron, (B, *shape) each."""


@dataclass(frozen=True, eq=False)
class Affine:
    """The affine map of an operator."""

    operator: Operator


@dataclass(frozen=True, eq=False)
class Clamp:
    """z -> min(max(z, low), high), elementwise, low <= high.

    `low`, `high`: (1, *shape), possibly infinite. `activation`: name of the layer it is part of. `box_of`: the box of
    its input from that of the layer's input. `before`: all nodes between the image and it.
    """

    activation: str
    shape: Shape
    low: Tensor
    high: Tensor
    box_of: Callable[[Box], Box]
    before: tuple[Node, ...]


@dataclass(frozen=True, eq=False)
class Sum:
    """branch(h) + shortcut(h)."""

    branch: tuple[Node, ...]
    shortcut: tuple[Node, ...]


Node = Affine | Clamp | Sum


def clamps(nodes: tuple[Node, ...]) -> Iterator[Clamp]:
    """Yield all clamps of a chain of nodes, from the image on."""
    for node in nodes:
        match node:
            case Clamp():
                yield node
            case Sum():
                yield from clamps(node.branch)
                yield from clamps(node.shortcut)


def widest(nodes: tuple[Node, ...]) -> int:
    """Return the number of entries of the largest layer."""
    sizes = [1]
    for node in nodes:
        match node:
            case Affine():
                sizes += [math.prod(node.operator.input_shape), math.prod(node.operator.output_shape)]
            case Clamp():
                sizes.append(math.prod(node.shape))
            case Sum():
                sizes += [widest(node.branch), widest(node.shortcut)]
    return max(sizes)
