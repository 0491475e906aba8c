"""Boxes of clamps: those that an analysis has proved, made smaller by backward passes of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lipcert.bounds.backward.ball import Ball
from lipcert.bounds.backward.nodes import Box, Clamp, Node, clamps, widest
from lipcert.bounds.backward.substitution import Rows, State, magnitudes, substitute
from lipcert.bounds.closing import ActivationBounds

LARGEST_CHUNK = 2**20
"""Entries of the widest layer's rows that are handled at a time."""


def proved_boxes(nodes: tuple[Node, ...], activations: Sequence[ActivationBounds]) -> dict[Clamp, Box]:
    """Return the box of every clamp from those of the activations in an analysis of the same network."""
    known = {each.name: (each.lower, each.upper) for each in activations}
    return {clamp: clamp.box_of(known[clamp.activation]) for clamp in clamps(nodes)}


def proved_state(nodes: tuple[Node, ...], activations: Sequence[ActivationBounds], ball: Ball) -> State:
    """Return what an analysis knows, with the magnitudes that rounding is relative to."""
    boxes = proved_boxes(nodes, activations)
    return State(boxes, magnitudes(nodes, ball.size, boxes))


@torch.no_grad()
def refined(nodes: tuple[Node, ...], state: State, ball: Ball, most: int) -> State:
    """Return the state with smaller boxes: those of neurons that bend, by backward passes, layer after layer.

    Args:
        nodes: of the network.
        state: what is known so far.
        ball: the images.
        most: layers with more neurons to refine an image, on average, keep their boxes.
    """
    width = widest(nodes)
    for clamp in clamps(nodes):
        if not any(True for _ in clamps(clamp.before)):
            continue  # row norms say all where nothing bends
        everything = torch.arange(len(ball.images), device=ball.images.device)
        places = state.interval(clamp, everything).bends.flatten(1).nonzero()
        if len(places) > most * len(ball.images):
            continue
        lower, upper = (end.clone(memory_format=torch.contiguous_format) for end in state.boxes[clamp])
        for chunk in places.split(max(1, LARGEST_CHUNK // (2 * width))):
            _raise_bounds(clamp, chunk, lower, upper, state, ball)
        state = replace(state, boxes={**state.boxes, clamp: (lower, upper)})
    return state


def _raise_bounds(clamp: Clamp, places: Tensor, lower: Tensor, upper: Tensor, state: State, ball: Ball) -> None:
    """Write better bounds of neurons `places` (P, 2), image and place, into `lower` and `upper`."""
    image, neuron = places[:, 0], places[:, 1]
    units = lower.new_zeros(len(places), math.prod(clamp.shape))
    units[torch.arange(len(places), device=units.device), neuron] = 1
    coefficients = torch.cat((units, -units)).view(-1, *clamp.shape)
    rows = substitute(clamp.before, Rows.of(coefficients, torch.cat((image, image))), state)
    least, greatest = ball.certain(rows).chunk(2)
    for ends, found, sign in ((lower, least, 1), (upper, -greatest, -1)):
        flat = ends.view(len(ends), -1)
        before = flat[image, neuron]
        flat[image, neuron] = torch.where(sign * found > sign * before, found, before)  # NaN improves nothing
