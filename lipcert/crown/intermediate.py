"""Boxes of what clamps see: those that an analysis has proved, made smaller by backward passes of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lipcert.bounds import ActivationBounds, Near
from lipcert.crown.ball import QUICK, Ball
from lipcert.crown.state import (
    Held,
    Link,
    State,
    Vicinity,
    balls_of_steps,
    bending,
    boxes_of_steps,
    lines_of,
    sizes_of,
    step_of,
)
from lipcert.crown.substitution import Rows, rows_at_a_time, substitute
from lipcert.crown.trust_region import Quadratic
from lipcert.graph import Activation, Box, Graph, PairSort
from lipcert.nn.activations import split_pairs

SAMPLE, SHRUNK = 8, 0.5
"""Neurons of a larger layer that are tried for each image, and what they keep of their widths where others follow."""


def proved_state(graph: Graph, activations: Sequence[ActivationBounds], ball: Ball) -> tuple[State, Ball]:
    """Return what an analysis of the graph before its activations were split knows, with sizes.

    The ball then knows what quadratic parts of rows are about: the activation that the image reaches through one linear
    map, where no other does.
    """
    boxes = boxes_of_steps(graph, {bounds.name: (bounds.lower, bounds.upper) for bounds in activations})
    held = {bounds.name: _held(bounds) for bounds in activations}
    last = {bounds.node.index: _indices(graph, bounds.name)[-1] for bounds in activations}
    first = [each for each in activations if each.ball is not None and _follows_image(each.ball)]
    if len(first) == 1:
        last[0] = 0
        ball = replace(ball, quadratic=_quadratic(first[0].ball, held[first[0].name]))
    known = {bounds.name: bounds.ball for bounds in activations if bounds.ball is not None}
    steps = {name: Vicinity(near.center, near.radius, _link(near, last)) for name, near in known.items()}
    state = State(
        boxes,
        sizes_of(graph, ball.size, boxes),
        balls=balls_of_steps(graph, steps) if len(steps) == len(activations) else {},
        lines=lines_of(graph, boxes),
        held={_indices(graph, name)[0]: each for name, each in held.items() if each is not None},
    )
    return state, ball


def _follows_image(near: Near) -> bool:
    return near.term is not None and near.term.source.index == 0


def _quadratic(near: Near | None, held: Held | None) -> Quadratic:
    assert near is not None
    assert near.term is not None
    assert near.norm is not None
    return Quadratic.of(near.term.map, None if held is None else held.needed, near.norm)


def _indices(graph: Graph, name: str) -> list[int]:
    """Return the steps of an activation."""
    return [node.index for node in graph.activations if node.name == name]


def _link(near: Near, last: Mapping[int, int]) -> Link | None:
    """Return the link to a node of which `last` knows the index after the split, None for others."""
    if near.term is None or near.norm is None or near.error is None or near.term.source.index not in last:
        return None
    origin = near.term.source.index
    norm = near.norm if origin else torch.ones_like(near.norm)  # the image's is left to `Quadratic`
    return Link(last[origin], norm, near.error)


def _held(bounds: ActivationBounds) -> Held | None:
    """Return what may be held."""
    needed = bounds.node.function.needed(bounds.lower, bounds.upper)
    return None if needed is None or bounds.ball is None else Held(needed, bounds.ball.center)


@torch.no_grad()
def refined(graph: Graph, state: State, ball: Ball, most: int) -> State:
    """Return the state with smaller boxes: those of neurons that bend, by backward passes, layer after layer.

    Layers with more neurons than `most` follow boxes alone, which costs a fifth, for images of which that halves the
    widths of a few: balls say little there.

    Args:
        graph: whose activations are split.
        state: what is known so far.
        ball: the images.
        most: neurons to refine an image, on average, by balls and boxes.
    """
    for node in bending(graph):
        if not _depends(graph, node.sources[0]):
            continue  # row norms say all where nothing bends
        places, known = bends(state, node).flatten(1).nonzero(), state.boxes[node.index]
        if len(places) <= most * len(ball.images):
            box = _smaller(graph, node, places, known, state, ball)
        else:
            boxes, near, few = replace(state, balls={}), replace(ball, quadratic=None), _few(places[:, 0])
            box = _smaller(graph, node, places[few], known, boxes, near)
            follow = _share(places[few], known, box) <= SHRUNK  # NaN is not
            box = _smaller(graph, node, places[~few & follow[places[:, 0]]], box, boxes, near)
        state = replace(state, boxes={**state.boxes, node.index: box})
    return state


def _few(image: Tensor) -> Tensor:
    """Return which of the neurons of images, (P,) in order, are tried first, (P,) bool: evenly spaced ones."""
    count = image.bincount()
    rank = torch.arange(len(image), device=image.device) - (count.cumsum(dim=0) - count)[image]
    return rank % (count[image] / SAMPLE).ceil() == 0


def _share(places: Tensor, before: Box, after: Box) -> Tensor:
    """Return what share of their widths neurons `places`, (P, 2), keep in all, (B,); NaN for images without any."""
    image, neuron = places.unbind(dim=1)
    old, new = (
        image.bincount((upper - lower).flatten(1)[image, neuron], len(lower)) for lower, upper in (before, after)
    )
    return new / old


def bends(state: State, node: Activation) -> Tensor:
    """Return what bends, bool, but for differences with an input that is held, which are not those of the network."""
    bent, held = state.interval(node).bends, state.held.get(node.index)
    if held is None or not isinstance(node.function, PairSort):
        return bent
    first, second = split_pairs(held.needed > 0)
    return bent & first & second


def _depends(graph: Graph, index: int) -> bool:
    """Return whether a node depends on any activation."""
    node = graph.nodes[index]
    return isinstance(node, Activation) or any(_depends(graph, source) for source in node.sources)


def _smaller(graph: Graph, node: Activation, places: Tensor, box: Box, state: State, ball: Ball) -> Box:
    """Return a box with better bounds of neurons `places`, (P, 2), image and place."""
    ends = [end.clone(memory_format=torch.contiguous_format) for end in box]
    for chunk in places.split(max(1, rows_at_a_time(graph) // 2)):
        image, neuron = chunk.unbind(dim=1)
        units = ends[0].new_zeros(len(chunk), ends[0][0].numel())
        units[torch.arange(len(chunk), device=units.device), neuron] = 1
        coefficients = step_of(node).shown(torch.cat((units, -units)).view(-1, *ends[0].shape[1:]))
        rows = substitute(graph, Rows.of(coefficients, torch.cat((image, image))), state, node.sources[0])
        least, greatest = ball.certain(rows, QUICK).chunk(2)
        for end, found, sign in zip(ends, (least, -greatest), (1, -1), strict=True):
            flat = end.view(len(end), -1)
            before = flat[image, neuron]
            flat[image, neuron] = torch.where(sign * found > sign * before, found, before)  # NaN improves nothing
    return ends[0], ends[1]
