"""Activations of pairs of channels: sorts, clipped or not, and reflections."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.graph.activations import Clamp, Nonlinearity, Step, check_thresholds, register_activation
from lipcert.graph.operators import Box, Shape
from lipcert.nn import ClippedMaxMin, Householder, MaxMin, UnsupportedLayerError
from lipcert.nn.activations import clipped_max_min, max_min, split_pairs
from lipcert.nn.householder import householder

ROOM = 1 + 1e-12
"""For the arithmetic of norms."""

SHORTEST, LONGEST = 0.25, 100.0
"""Lengths of directions, between which nothing underflows or overflows as executed but what is allowed for."""

UNDERFLOW, LARGEST_INPUT = 2.0**-96, 1e36
"""Times ten units in the last place: more than underflow loses in a reflection; no larger input may overflow."""


@dataclass(frozen=True, eq=False)
class PairSort(Step):
    """(a, b) -> (max(a, b), min(a, b)) over the two halves of the channels, clipped to `high` and `low` if given.

    `high`, `low`: thresholds of the larger and of the smaller half, (1, C/2, ...).
    """

    high: Tensor | None = None
    low: Tensor | None = None
    monotone = True
    stretch = math.sqrt(2) * ROOM  # T z is a - b
    square = 2.0

    def apply(self, inputs: Tensor) -> Tensor:
        if self.high is None or self.low is None:
            return max_min(inputs)
        return clipped_max_min(inputs, self.high, self.low)

    def range(self, lower: Tensor, upper: Tensor) -> Box:
        return self.apply(lower), self.apply(upper)

    def _vary(self, lower: Tensor, upper: Tensor) -> Box:
        """Return where the larger and the smaller outputs vary, bool."""
        (first_lower, second_lower), (first_upper, second_upper) = split_pairs(lower), split_pairs(upper)
        larger = ~(torch.maximum(first_lower, second_lower) >= self.high)  # type: ignore[operator]
        smaller = ~(torch.minimum(first_upper, second_upper) <= self.low)  # type: ignore[operator]
        return larger, smaller

    def varying(self, lower: Tensor, upper: Tensor) -> Tensor | None:
        if self.high is None or self.low is None:
            return None
        return torch.cat(self._vary(lower, upper), dim=1).to(upper.dtype)

    def needed(self, lower: Tensor, upper: Tensor) -> Tensor | None:
        # A pair matters while one of its outputs varies; where its order is decided, each input alone.
        if self.high is None or self.low is None:
            return None
        larger, smaller = self._vary(lower, upper)
        (first_lower, second_lower), (first_upper, second_upper) = split_pairs(lower), split_pairs(upper)
        first_leads, second_leads = first_lower >= second_upper, second_lower >= first_upper
        either = larger | smaller
        first = torch.where(first_leads, larger, torch.where(second_leads, smaller, either))
        second = torch.where(first_leads, smaller, torch.where(second_leads, larger, either))
        return torch.cat((first, second), dim=1).to(upper.dtype)

    def rounding(self, entries: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        larger = torch.maximum(*split_pairs(entries))  # an output's error is at most the larger of its pair
        return torch.cat((larger, larger), dim=1)

    def steps(self, shape: Shape) -> Sequence[Step]:
        if self.high is None or self.low is None:
            return (self,)
        low, high = (each.expand(1, shape[0] // 2, *shape[1:]) for each in (self.low, self.high))
        free = torch.full_like(high, torch.inf)
        return PairSort(), Clamp(torch.cat((-free, low), dim=1), torch.cat((high, free), dim=1))

    # max(a, b) = b + relu(a - b), min(a, b) = a - relu(a - b)

    def seen(self, values: Tensor) -> Tensor:
        first, second = split_pairs(values)
        return first - second

    def seen_box(self, lower: Tensor, upper: Tensor) -> Box:
        (first_lower, second_lower), (first_upper, second_upper) = split_pairs(lower), split_pairs(upper)
        least, greatest = first_lower - second_upper, first_upper - second_lower
        infinity = torch.full_like(least, math.inf)
        return torch.nextafter(least, -infinity), torch.nextafter(greatest, infinity)  # one rounding wider

    def shown(self, slopes: Tensor) -> Tensor:
        return torch.cat((slopes, -slopes), dim=1)

    def passed(self, rows: Tensor) -> Tensor:
        larger, smaller = split_pairs(rows)
        return torch.cat((smaller, larger), dim=1)

    def bent(self, rows: Tensor) -> Tensor:
        larger, smaller = split_pairs(rows)
        return larger - smaller

    def turn(self, like: Tensor) -> float:
        return -1.0  # (max, min) is (a + b)/2 and |a - b|/2 apart from it, either way


@dataclass(frozen=True, eq=False)
class Reflection(Step):
    """z where v·z > 0, else its reflection, over pairs z of the two halves of the channels; `directions`: (2, C/2).

    With v of length 1 the reflection is z - 2 v (v·z), and the whole of it that plus 2 v relu(v·z).
    """

    directions: Tensor
    operations = 10
    stretch = ROOM

    def _unit(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return both entries of v, (1, C/2, ...), for values (B, C, ...)."""
        unit = self.directions / torch.linalg.vector_norm(self.directions, dim=0)
        first, second = (each.view(1, -1, *(1 for _ in like.shape[2:])) for each in unit)
        return first, second

    def apply(self, inputs: Tensor) -> Tensor:
        return householder(inputs, self.directions)

    def range(self, lower: Tensor, upper: Tensor) -> Box:
        # The extremes over a rectangle are at its corners, or where the line meets its sides.
        (v, w), ends = self._unit(lower), (split_pairs(lower), split_pairs(upper))
        points = [torch.cat((first, second), dim=1) for first, _ in ends for _, second in ends]
        for first, second in ends:
            crossed = -v * first / torch.where(w == 0, 1, w), -w * second / torch.where(v == 0, 1, v)
            inside = [each.maximum(low).minimum(high) for each, low, high in zip(crossed[::-1], *ends, strict=True)]
            points += [torch.cat((first, inside[1]), dim=1), torch.cat((inside[0], second), dim=1)]
        values = self.apply(torch.cat(points)).unflatten(0, (len(points), -1))
        return values.amin(dim=0), values.amax(dim=0)

    def rounding(self, entries: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        both = torch.hypot(*split_pairs(entries)) * (1 + 1e-5)  # for the rounding of what the error adds
        return torch.cat((both, both), dim=1)

    def magnitude(self, lower: Tensor, upper: Tensor) -> Tensor:
        size = torch.maximum(lower.abs(), upper.abs())
        (v, w), (first, second) = (each.abs() for each in self._unit(size)), split_pairs(size)
        depth = 2 * (v * first + w * second)
        whole = torch.cat((first + v * depth, second + w * depth), dim=1) + UNDERFLOW
        return torch.where(size <= LARGEST_INPUT, whole, torch.inf)

    def seen(self, values: Tensor) -> Tensor:
        (v, w), (first, second) = self._unit(values), split_pairs(values)
        return v * first + w * second

    def seen_box(self, lower: Tensor, upper: Tensor) -> Box:
        (v, w), middle, half = self._unit(lower), (lower + upper) / 2, split_pairs((upper - lower) / 2)
        sizes = split_pairs(torch.maximum(lower.abs(), upper.abs()))
        reach = v.abs() * half[0] + w.abs() * half[1] + 8 * torch.finfo(lower.dtype).eps * (sizes[0] + sizes[1])
        middle = self.seen(middle)
        return middle - reach, middle + reach

    def shown(self, slopes: Tensor) -> Tensor:
        return torch.cat([weight * slopes for weight in self._unit(slopes)], dim=1)

    def passed(self, rows: Tensor) -> Tensor:
        return rows - self.shown(self.bent(rows))

    def bent(self, rows: Tensor) -> Tensor:
        return 2 * self.seen(rows)

    def turn(self, like: Tensor) -> float:
        return -1.0

    def weight(self, rows: Tensor) -> Tensor:
        first, second = split_pairs(rows.abs())
        return 6 * torch.cat((first + second, first + second), dim=1)


def _pairs(layer: MaxMin | ClippedMaxMin, shape: Shape) -> Nonlinearity:
    if shape[0] % 2:
        raise UnsupportedLayerError(f"a {type(layer).__name__} pairs channels, of which {shape} has an odd number.")
    if isinstance(layer, MaxMin):
        return PairSort()
    for thresholds in (layer.max, layer.min):
        check_thresholds(layer, thresholds, (shape[0] // 2, *shape[1:]))
    return PairSort(layer.max, layer.min)


def _reflections(layer: Householder, shape: Shape) -> Nonlinearity:
    lengths = torch.linalg.vector_norm(layer.directions, dim=0)
    if layer.directions.dim() != 2 or len(layer.directions) != 2 or shape[0] != 2 * layer.directions.shape[1]:
        raise UnsupportedLayerError(
            f"a Householder with directions {tuple(layer.directions.shape)} does not fit {shape}."
        )
    if not bool(((lengths >= SHORTEST) & (lengths <= LONGEST)).all()):
        raise UnsupportedLayerError(
            f"a Householder needs directions of lengths from {SHORTEST} to {LONGEST}, got "
            f"{float(lengths.min()):.3g} to {float(lengths.max()):.3g}; divide them by these."
        )
    return Reflection(layer.directions)


register_activation(MaxMin, _pairs)
register_activation(ClippedMaxMin, _pairs)
register_activation(Householder, _reflections)
