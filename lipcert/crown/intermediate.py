"""Boxes of clamps and sorts: those that an analysis has proved, made smaller by backward passes of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lipcert.bounds import ActivationBounds
from lipcert.crown.ball import Ball
from lipcert.crown.state import Held, Near, State, balls_of_steps, boxes_of_steps, sizes_of
from lipcert.crown.substitution import Rows, rows_at_a_time, substitute
from lipcert.graph import Activation, Graph, PairSort


def proved_state(graph: Graph, activations: Sequence[ActivationBounds], ball: Ball) -> State:
    """Return what an analysis of the graph before its activations were split knows, with sizes."""
    boxes = boxes_of_steps(graph, {bounds.name: (bounds.lower, bounds.upper) for bounds in activations})
    near = {bounds.name: Near(*bounds.ball) for bounds in activations if bounds.ball is not None}
    balls = balls_of_steps(graph, near) if len(near) == len(activations) else {}
    return State(boxes, sizes_of(graph, ball.size, boxes), balls=balls, held=_held(graph, activations, near))


def _held(graph: Graph, activations: Sequence[ActivationBounds], near: Mapping[str, Near]) -> dict[int, Held]:
    """Return what may be held, by the index of each activation's first step."""
    first = {node.name: node.index for node in reversed(list(graph.activations))}
    held = dict[int, Held]()
    for bounds in activations:
        needed = bounds.node.function.needed(bounds.lower, bounds.upper)
        if needed is not None and bounds.name in near:
            held[first[bounds.name]] = Held(needed, near[bounds.name].center)
    return held


@torch.no_grad()
def refined(graph: Graph, state: State, ball: Ball, most: int) -> State:
    """Return the state with smaller boxes: those of neurons that bend, by backward passes, layer after layer.

    Args:
        graph: whose activations are split.
        state: what is known so far.
        ball: the images.
        most: layers with more neurons to refine an image, on average, keep their boxes.
    """
    for node in graph.activations:
        if not _bends(graph, node.sources[0]):
            continue  # row norms say all where nothing bends
        places = state.interval(node).bends.flatten(1).nonzero()
        if len(places) > most * len(ball.images):
            continue
        lower, upper = (end.clone(memory_format=torch.contiguous_format) for end in state.boxes[node.index])
        for chunk in places.split(max(1, rows_at_a_time(graph) // 2)):
            _raise_bounds(graph, node, chunk, lower, upper, state, ball)
        state = replace(state, boxes={**state.boxes, node.index: (lower, upper)})
    return state


def _bends(graph: Graph, index: int) -> bool:
    """Return whether a node depends on any activation."""
    node = graph.nodes[index]
    return isinstance(node, Activation) or any(_bends(graph, source) for source in node.sources)


def _raise_bounds(
    graph: Graph, node: Activation, places: Tensor, lower: Tensor, upper: Tensor, state: State, ball: Ball
) -> None:
    """Write better bounds of neurons `places` (P, 2), image and place, into `lower` and `upper`."""
    image, neuron = places[:, 0], places[:, 1]
    units = lower.new_zeros(len(places), lower[0].numel())
    units[torch.arange(len(places), device=units.device), neuron] = 1
    coefficients = torch.cat((units, -units)).view(-1, *lower.shape[1:])
    if isinstance(node.function, PairSort):
        coefficients = torch.cat((coefficients, -coefficients), dim=1)
    rows = substitute(graph, Rows.of(coefficients, torch.cat((image, image))), state, node.sources[0])
    least, greatest = ball.certain(rows).chunk(2)
    for ends, found, sign in ((lower, least, 1), (upper, -greatest, -1)):
        flat = ends.view(len(ends), -1)
        before = flat[image, neuron]
        flat[image, neuron] = torch.where(sign * found > sign * before, found, before)  # NaN improves nothing
