"""Boxes of clamps: those that an analysis has proved, made smaller by backward passes of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lipcert.bounds import ActivationBounds
from lipcert.crown.ball import Ball
from lipcert.crown.network import Bend, Network
from lipcert.crown.substitution import Rows, State, sizes_of, substitute

LARGEST_CHUNK = 2**20
"""Entries of the widest layer's rows that are handled at a time."""


def proved_state(network: Network, activations: Sequence[ActivationBounds], ball: Ball) -> State:
    """Return what an analysis of the same graph knows, with the sizes that rounding is relative to."""
    known = {bounds.node.index: (bounds.lower, bounds.upper) for bounds in activations}
    boxes = {bend.index: bend.box_of(known[bend.activation.index]) for bend in network.bends}
    return State(boxes, sizes_of(network, ball.size, boxes))


@torch.no_grad()
def refined(network: Network, state: State, ball: Ball, most: int) -> State:
    """Return the state with smaller boxes: those of neurons that bend, by backward passes, layer after layer.

    Args:
        network: of the graph.
        state: what is known so far.
        ball: the images.
        most: layers with more neurons to refine an image, on average, keep their boxes.
    """
    for bend in network.bends:
        if not network.bends_before(bend.source):
            continue  # row norms say all where nothing bends
        everything = torch.arange(len(ball.images), device=ball.images.device)
        places = state.interval(bend, everything).bends.flatten(1).nonzero()
        if len(places) > most * len(ball.images):
            continue
        lower, upper = (end.clone(memory_format=torch.contiguous_format) for end in state.boxes[bend.index])
        for chunk in places.split(max(1, LARGEST_CHUNK // (2 * network.widest))):
            _raise_bounds(network, bend, chunk, lower, upper, state, ball)
        state = replace(state, boxes={**state.boxes, bend.index: (lower, upper)})
    return state


def _raise_bounds(
    network: Network, bend: Bend, places: Tensor, lower: Tensor, upper: Tensor, state: State, ball: Ball
) -> None:
    """Write better bounds of neurons `places` (P, 2), image and place, into `lower` and `upper`."""
    image, neuron = places[:, 0], places[:, 1]
    units = lower.new_zeros(len(places), math.prod(bend.shape))
    units[torch.arange(len(places), device=units.device), neuron] = 1
    coefficients = torch.cat((units, -units)).view(-1, *bend.shape)
    rows = substitute(network, Rows.of(coefficients, torch.cat((image, image))), state, bend.source)
    least, greatest = ball.certain(rows).chunk(2)
    for ends, found, sign in ((lower, least, 1), (upper, -greatest, -1)):
        flat = ends.view(len(ends), -1)
        before = flat[image, neuron]
        flat[image, neuron] = torch.where(sign * found > sign * before, found, before)  # NaN improves nothing
