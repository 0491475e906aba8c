"""What backward passes run over and know: a graph of steps, boxes before these, sizes of all values.

A step is a linear part and a clamp of what it sees of its input, see `lipcert.graph.Step`: it bends where that does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from lipcert.crown.lines import Interval, Slopes
from lipcert.graph import Activation, Add, Affine, Box, Clamp, Enclosed, Graph, Image, Lines, Node, Step


def split_activations(graph: Graph) -> Graph:
    """Return the graph with a node, named like the activation, for each of its steps: a clamp or a sort of pairs.

    Raises:
        NotImplementedError: for an activation that is not made of such steps.
    """
    nodes, place = list[Node](), dict[int, int]()
    for node in graph.nodes:
        sources = tuple(place[source] for source in node.sources)
        steps: list[Node] = [node]
        if isinstance(node, Activation):
            functions = (each for step in node.function.steps(node.shape) for each in step.steps(node.shape))
            steps = [replace(node, function=function) for function in functions]
        for step in steps:
            nodes.append(replace(step, index=len(nodes), sources=sources))  # type: ignore[arg-type]  # as many as before
            sources = (len(nodes) - 1,)
        (place[node.index],) = sources
    split = replace(graph, nodes=tuple(nodes), kept={place[index]: each for index, each in graph.kept.items()})
    return split if graph.key is None else split.frozen()


def step_of(node: Activation) -> Step:
    """Return what a node of a split graph does."""
    assert isinstance(node.function, Step)
    return node.function


def bending(graph: Graph) -> tuple[Activation, ...]:
    """Return the activations of a split graph that bend at known places, in order."""
    return tuple(node for node in graph.activations if isinstance(node.function, Step))


def lines_of(graph: Graph, boxes: Mapping[int, Box]) -> dict[int, Lines]:
    """Return lines around those activations that have them, over the boxes of their inputs, by the node's index."""
    enclosed = {node.index: node.function for node in graph.activations if isinstance(node.function, Enclosed)}
    return {index: function.lines(*boxes[index]) for index, function in enclosed.items()}


def has_steps(graph: Graph) -> bool:
    """Return whether every activation of a graph is made of steps, as backward bounds need."""
    try:
        split_activations(graph)
    except NotImplementedError:
        return False
    return True


class Link(NamedTuple):
    """How far the input of a step, z, may be from its center: at most `norm` |h - h0| + `error`, (B,) both.

    h is the value at node `origin`, the image or an activation, at entries that vary, h0 that at the image.
    """

    origin: int
    norm: Tensor
    error: Tensor


class Vicinity(NamedTuple):
    """A ball around the input of a clamp or sort: `center`, (B, *shape), and `radius`, (B,).

    `link`: to the value that the radius follows from; None where there are several.
    """

    center: Tensor
    radius: Tensor
    link: Link | None = None


class Held(NamedTuple):
    """Inputs of an activation: 1 where any output that varies depends on it, `needed`, and the values at the image,
    `center`, (B, *shape) both. What is not needed may be taken to stay where it is.
    """

    needed: Tensor
    center: Tensor


@dataclass(frozen=True)
class State:
    """What a backward pass knows of a batch.

    Attributes:
        boxes: of what the clamp of every step sees, (B, *shape), by the node's index.
        sizes: of all values, which rounding errors are relative to, see `sizes_of`; None to leave these out.
        slopes: what rows have before clamps in place of what they have behind, (R, *shape), by the node's index.
        otherwise: slopes of lines of images, for nodes without `slopes`: the closest ones.
        balls: around the inputs of steps, by the node's index; where there is none, the box says all.
        held: inputs of activations, by the node's index.
        multipliers: of rows, (R,), for nodes with balls; where there is none, a good one is looked for.
        lines: around activations that bend nowhere in particular, by the node's index.
        varying: what varies where boxes have been split, (B, *shape), by the node's index: as before. Empty otherwise.
    """

    boxes: Mapping[int, Box]
    sizes: Mapping[int, Tensor] | None = None
    slopes: Mapping[int, Tensor] = field(default_factory=dict)
    otherwise: Callable[[Interval], Slopes] = Interval.closest
    balls: Mapping[int, Vicinity] = field(default_factory=dict)
    held: Mapping[int, Held] = field(default_factory=dict)
    multipliers: Mapping[int, Tensor] = field(default_factory=dict)
    varying: Mapping[int, Tensor] = field(default_factory=dict)
    lines: Mapping[int, Lines] = field(default_factory=dict)

    def varies(self, node: Activation) -> Tensor:
        """Return what is not where it is at the image, (B, *shape), bool."""
        return self.varying[node.index] if self.varying else self.interval(node).varies

    def of_images(self, index: Tensor) -> State:
        """Return the state of images `index`, (N,), which may be there several times, without slopes of rows."""

        def each(values: Mapping[int, Tensor]) -> dict[int, Tensor]:
            return {key: value[index] for key, value in values.items()}

        balls = {
            key: Vicinity(center[index], radius[index], link and Link(link.origin, link.norm[index], link.error[index]))
            for key, (center, radius, link) in self.balls.items()
        }
        return replace(
            self,
            boxes={key: (lower[index], upper[index]) for key, (lower, upper) in self.boxes.items()},
            sizes=None if self.sizes is None else each(self.sizes),
            slopes={},
            balls=balls,
            held={key: Held(held.needed[index], held.center[index]) for key, held in self.held.items()},
            multipliers={},
            varying=each(self.varying),
            lines={key: Lines(*(part[index] for part in lines)) for key, lines in self.lines.items()},
        )

    def interval(self, node: Activation, image: Tensor | None = None) -> Interval:
        """Return the clamp of a node over the boxes of all images, or of those that rows are about, `image`, (R,)."""
        lower, upper = self.boxes[node.index]
        if image is not None:
            lower, upper = lower[image], upper[image]
        clamp = step_of(node).clamp
        return Interval.of(lower, upper, clamp.low, clamp.high)


def boxes_of_steps(graph: Graph, known: Mapping[str, Box]) -> dict[int, Box]:
    """Return the boxes of a `State` from those of activations' inputs, by name."""
    inputs, boxes = dict[int, Box](), dict[int, Box]()
    for node in graph.activations:
        before = graph.nodes[node.sources[0]]
        if isinstance(before, Activation) and before.name == node.name:
            box = before.function.range(*inputs[before.index])
        else:
            box = known[node.name]
        inputs[node.index] = box
        boxes[node.index] = node.function.seen_box(*box) if isinstance(node.function, Step) else box
    return boxes


def balls_of_steps(graph: Graph, known: Mapping[str, Vicinity]) -> dict[int, Vicinity]:
    """Return the balls of a `State` from those around activations' inputs, by name: steps enlarge none."""
    balls = dict[int, Vicinity]()
    for node in graph.activations:
        before = graph.nodes[node.sources[0]]
        if isinstance(before, Activation) and before.name == node.name:
            center, radius, _ = balls[before.index]
            link = Link(before.index, torch.ones_like(radius), torch.zeros_like(radius))
            step = Vicinity(before.function.apply(center), radius, link)
        else:
            step = known[node.name]
        balls[node.index] = step
    return balls


@torch.no_grad()
def sizes_of(graph: Graph, images: Tensor, boxes: Mapping[int, Box]) -> dict[int, Tensor]:
    """Return bounds m on absolute values by node, |b| included: |A| m + |b| behind affine maps.

    An error E of a row's coefficients changes its bound by at most |E| m. `images`: (B, *shape), m at the image.
    """
    state, operators, sizes = State(boxes), graph.operators(), dict[int, Tensor]()
    for node in graph.nodes:
        before = [sizes[source] for source in node.sources]
        match node:
            case Image():
                sizes[node.index] = images
            case Affine():
                sizes[node.index] = operators[node.index].magnitude(*before)
            case Add():
                sizes[node.index] = before[0] + before[1]
            case Activation(function=Clamp()):
                sizes[node.index] = state.interval(node).size
            case Activation():
                sizes[node.index] = torch.maximum(*(end.abs() for end in node.function.range(-before[0], before[0])))
    return sizes
