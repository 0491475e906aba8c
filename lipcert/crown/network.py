"""A graph as affine maps, clamps and sums: all that a backward pass has to know of layers.

MaxMin is an affine map of its input and of relu(a - b) for every pair (a, b), so one nonlinear node serves every
activation: the elementwise clamp min(max(z, low), high), either end possibly infinite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lipcert.crown.pairs import Difference, Spread, Swap, difference_box, half
from lipcert.graph import Activation, Add, Affine, Box, Clamp, Graph, Image, PairSort
from lipcert.graph.operators import Operator, Shape


@dataclass(frozen=True, eq=False)
class Linear:
    """The affine map of an operator, applied to node `source`."""

    index: int
    source: int
    operator: Operator

    @property
    def sources(self) -> tuple[int, ...]:
        """Nodes it is applied to."""
        return (self.source,)


@dataclass(frozen=True, eq=False)
class Bend:
    """z -> min(max(z, low), high), elementwise, low <= high, applied to node `source`.

    `low`, `high`: (1, *shape), possibly infinite. `activation`: the node of the graph that it is part of. `box_of`: the
    box of its input from that of the activation's input.
    """

    index: int
    source: int
    activation: Activation
    shape: Shape
    low: Tensor
    high: Tensor
    box_of: Callable[[Box], Box]

    @property
    def sources(self) -> tuple[int, ...]:
        """Nodes it is applied to."""
        return (self.source,)


@dataclass(frozen=True, eq=False)
class Sum:
    """The sum of two nodes."""

    index: int
    sources: tuple[int, int]


Step = Linear | Bend | Sum


@dataclass(frozen=True, eq=False)
class Network:
    """Steps in the order of execution; indices count from 1, 0 is the image, the last step is the output.

    `shapes`: of all values by index, without the batch.
    """

    steps: tuple[Step, ...]
    shapes: tuple[Shape, ...]

    @property
    def output(self) -> int:
        """Index of the output."""
        return len(self.steps)

    @property
    def bends(self) -> Iterator[Bend]:
        """All clamps, from the image on."""
        return (step for step in self.steps if isinstance(step, Bend))

    @cached_property
    def widest(self) -> int:
        """Number of entries of the largest value."""
        return max(math.prod(shape) for shape in self.shapes)

    @cached_property
    def last_use(self) -> dict[int, int]:
        """The last step that is applied to each value, by index."""
        return {source: step.index for step in self.steps for source in step.sources}

    def bends_before(self, index: int) -> bool:
        """Return whether the value at `index` depends on any clamp."""
        if index == 0:
            return False
        step = self.steps[index - 1]
        return isinstance(step, Bend) or any(self.bends_before(source) for source in step.sources)


def network_of(graph: Graph, origin: Tensor) -> Network:
    """Return the network of a graph; `origin` gives dtype and device of thresholds.

    Raises:
        UnsupportedLayerError: for a layer that is not affine in its present mode.
        NotImplementedError: for an activation that is not made of clamps.
    """
    builder = _Builder(origin, graph.image_shape)
    operators = graph.operators()
    place = {0: 0}
    for node in graph.nodes:
        match node:
            case Affine():
                place[node.index] = builder.linear(place[node.sources[0]], operators[node.index])
            case Add():
                place[node.index] = builder.sum(*(place[source] for source in node.sources))
            case Activation():
                place[node.index] = builder.activation(place[node.sources[0]], node)
            case Image():
                pass
    return Network(tuple(builder.steps), tuple(builder.shapes))


class _Builder:
    """Appends steps; every method returns the index of the last one."""

    def __init__(self, origin: Tensor, image_shape: Shape) -> None:
        self.origin = origin
        self.steps: list[Step] = []
        self.shapes: list[Shape] = [image_shape]

    def _append(self, step: Step, shape: Shape) -> int:
        self.steps.append(step)
        self.shapes.append(shape)
        return step.index

    def linear(self, source: int, operator: Operator) -> int:
        return self._append(Linear(len(self.shapes), source, operator), operator.output_shape)

    def sum(self, first: int, second: int) -> int:
        return self._append(Sum(len(self.shapes), (first, second)), self.shapes[first])

    def activation(self, source: int, node: Activation) -> int:
        box_of: Callable[[Box], Box] = _same
        for step in node.function.clamps(node.shape):
            if isinstance(step, PairSort):
                source = self._sort(source, node, box_of)
            else:
                source = self._clamp(source, node, step, box_of)
            box_of = _behind(step, box_of)
        return source

    def _clamp(self, source: int, node: Activation, clamp: Clamp, box_of: Callable[[Box], Box]) -> int:
        shape = self.shapes[source]
        low = self._end(-torch.inf if clamp.low is None else clamp.low, shape)
        high = self._end(torch.inf if clamp.high is None else clamp.high, shape)
        bend = Bend(len(self.shapes), source, node, shape, torch.minimum(low, high), high, box_of)
        return self._append(bend, shape)

    def _end(self, value: Tensor | float, shape: Shape) -> Tensor:
        return torch.as_tensor(value, dtype=self.origin.dtype, device=self.origin.device).expand(1, *shape)

    def _sort(self, source: int, node: Activation, box_of: Callable[[Box], Box]) -> int:
        shape = self.shapes[source]
        difference = self.linear(source, Difference(shape, half(shape)))
        positive = self._clamp(difference, node, Clamp(0.0), lambda box: difference_box(box_of(box)))
        spread = self.linear(positive, Spread(half(shape), shape))
        return self.sum(spread, self.linear(source, Swap(shape, shape)))


def _same(box: Box) -> Box:
    return box


def _behind(step: Clamp | PairSort, before: Callable[[Box], Box]) -> Callable[[Box], Box]:
    """Return what makes the box behind a step from that of the activation's input, given what makes the one before."""
    return lambda box: step.range(*before(box))
