"""One rule an activation: where its outputs lie, which of them vary, what rounding becomes behind it.

What follows for Lipschitz constants and regions is the same for all of them, see `lipcert.bounds.closing`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from lipcert.bounds.closing import Closing, Masks, Walk, close
from lipcert.bounds.errors import UnsupportedLayerError
from lipcert.bounds.lazy import Lazy
from lipcert.bounds.operators import Shape
from lipcert.bounds.region import Box, Region
from lipcert.bounds.rounding import Rounding
from lipcert.bounds.rules import apply_rule
from lipcert.nn import ClippedMaxMin, ClippedReLU, MaxMin
from lipcert.nn.activations import clipped_max_min, clipped_relu, max_min, split_pairs


def _mask(condition: Tensor, like: Tensor) -> Tensor:
    return condition.to(like.dtype)


@torch.no_grad()
def _varying(lower: Tensor, upper: Tensor, high: Tensor | None = None) -> Tensor:
    """Return 1 where [lower, upper] reaches between 0 and `high`, 0 where it does not; NaN does.

    Comparisons write numbers at once: truth values and their conversion take twice as long.
    """
    constant = torch.le(upper, 0, out=torch.empty_like(upper))
    if high is not None:
        constant += torch.ge(lower, high, out=torch.empty_like(lower))
    return torch.lt(constant, 1, out=constant)


def _clips_above(threshold: Tensor) -> Tensor:
    """Return above which inputs min(max(z, 0), threshold) is constant: all of them for a threshold of 0 or less."""
    return torch.where(threshold > 0, threshold, -torch.inf)


def _remainder(region: Region, threshold: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the range of σ(z') - σ(z) - (z' - z)/2 over the box, z the center; σ is min(max(·, 0), threshold).

    The function is piecewise linear: its extremes are at the ends of the box or at the kinks inside.
    """

    def bent(values: Tensor) -> Tensor:
        output = values.relu() if threshold is None else clipped_relu(values, threshold)
        return output - values / 2

    lower, upper = region.box()
    kinks = [torch.zeros_like(upper)] if threshold is None else [torch.zeros_like(upper), threshold.expand_as(upper)]
    candidates = [bent(each.clamp(lower, upper)) for each in (lower, upper, *kinks)]
    stacked = torch.stack(candidates) - bent(region.center)
    return stacked.amin(dim=0), stacked.amax(dim=0)


def _of_unclipped(region: Region, threshold: Tensor | None) -> Rounding | None:
    """Return the error behind a ReLU: none where the executed input, too, stays outside (0, threshold)."""
    rounding = region.rounding
    if rounding is None:
        return None
    lower, upper = region.box()
    clipped = upper + rounding.entries <= 0
    if threshold is not None:
        clipped = clipped | (lower - rounding.entries >= _clips_above(threshold))
    return Rounding.of(torch.where(clipped, 0, rounding.entries), rounding.length)


def _of_pairs(rounding: Rounding | None) -> Rounding | None:
    """Return the error behind MaxMin: an output's is at most the larger of its pair."""
    if rounding is None:
        return None
    larger = torch.maximum(*split_pairs(rounding.entries))
    return replace(rounding, entries=torch.cat((larger, larger), dim=1))


def _monotone(region: Region, activation: Callable[[Tensor], Tensor]) -> tuple[Lazy[Box], Tensor, Lazy[Box]]:
    """Return box, output center and output box of an activation that is monotone in every entry."""
    box = Lazy(region.box)

    def output() -> Box:
        lower, upper = box.value
        return activation(lower), activation(upper)

    return box, activation(region.center), Lazy(output, kept=False)


@apply_rule.register
def _(layer: nn.ReLU, region: Region, walk: Walk, name: str) -> Region:
    box, center, output = _monotone(region, torch.relu)

    def masks() -> Masks:
        varying = _varying(*box.value)
        return Masks(varying, varying)

    closing = Closing(
        box,
        center,
        output,
        Lazy(masks),
        Lazy(lambda: _mask(box.value[0] >= 0, center)),
        Lazy(lambda: _remainder(region, None)),
        _of_unclipped(region, None),
    )
    return close(walk, name, layer, region, closing)


def _check_thresholds(layer: nn.Module, thresholds: Tensor, shape: Shape, name: str) -> None:
    """Refuse thresholds that do not fit what reaches the layer, (*shape) without the batch."""
    own = tuple(thresholds.shape[1:])
    if len(own) != len(shape) or any(mine not in (1, theirs) for mine, theirs in zip(own, shape, strict=True)):
        raise UnsupportedLayerError(
            f"Layer {name!r}: this {type(layer).__name__} has thresholds of shape {own}, what reaches it needs {shape}."
        )


def _check_pairs(layer: nn.Module, shape: Shape, name: str) -> None:
    """Refuse an odd number of channels, of which no pairs can be made."""
    if shape[0] % 2:
        raise UnsupportedLayerError(
            f"Layer {name!r}: a {type(layer).__name__} pairs channels, of which {shape} has an odd number."
        )


@apply_rule.register
def _(layer: ClippedReLU, region: Region, walk: Walk, name: str) -> Region:
    threshold = layer.threshold
    _check_thresholds(layer, threshold, region.shape, name)
    box, center, output = _monotone(region, lambda values: clipped_relu(values, threshold))

    def masks() -> Masks:
        lower, upper = box.value
        varying = _varying(lower, upper, _clips_above(threshold))
        return Masks(varying, varying)

    def linear() -> Tensor:
        lower, upper = box.value
        return _mask((lower >= 0) & (upper <= threshold), center)

    closing = Closing(
        box,
        center,
        output,
        Lazy(masks),
        Lazy(linear),
        Lazy(lambda: _remainder(region, threshold)),
        _of_unclipped(region, threshold),
    )
    return close(walk, name, layer, region, closing)


@apply_rule.register
def _(layer: MaxMin, region: Region, walk: Walk, name: str) -> Region:
    _check_pairs(layer, region.shape, name)
    closing = Closing(*_monotone(region, max_min), rounding=_of_pairs(region.rounding))
    return close(walk, name, layer, region, closing)


def _pair_masks(layer: ClippedMaxMin, box: Box, tightens: bool) -> Masks:
    """Return what is constant behind a clipped MaxMin; rows only where the bound `tightens`.

    An input pair matters while one of its outputs varies; where its order is decided, each input alone.
    """
    lower, upper = box
    first_lower, second_lower = split_pairs(lower)
    first_upper, second_upper = split_pairs(upper)
    larger = ~(torch.maximum(first_lower, second_lower) >= layer.max)
    smaller = ~(torch.minimum(first_upper, second_upper) <= layer.min)
    varying = _mask(torch.cat((larger, smaller), dim=1), upper)
    if not tightens:
        return Masks(varying, None)
    first_leads, second_leads = first_lower >= second_upper, second_lower >= first_upper
    either = larger | smaller
    first_row = torch.where(first_leads, larger, torch.where(second_leads, smaller, either))
    second_row = torch.where(first_leads, smaller, torch.where(second_leads, larger, either))
    return Masks(varying, _mask(torch.cat((first_row, second_row), dim=1), upper))


@apply_rule.register
def _(layer: ClippedMaxMin, region: Region, walk: Walk, name: str) -> Region:
    _check_pairs(layer, region.shape, name)
    for thresholds in (layer.max, layer.min):
        _check_thresholds(layer, thresholds, (region.shape[0] // 2, *region.shape[1:]), name)
    box, center, output = _monotone(region, lambda values: clipped_max_min(values, layer.max, layer.min))
    tightens = walk.bound.tightens
    masks = Lazy(lambda: _pair_masks(layer, box.value, tightens))
    return close(walk, name, layer, region, Closing(box, center, output, masks, rounding=_of_pairs(region.rounding)))
