"""Affine maps of which MaxMin is made: max(a, b) = b + relu(a - b), min(a, b) = a - relu(a - b)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.graph.operators import Operator, Shape
from lipcert.nn.activations import split_pairs


@dataclass(frozen=True)
class _Unbiased(Operator):
    """A linear map of few additions an entry."""

    def affine(self, inputs: Tensor) -> Tensor:
        return self.apply(inputs)

    def products(self) -> tuple[int, int]:
        return 2, 2


@dataclass(frozen=True)
class Swap(_Unbiased):
    """(a, b) -> (b, a)."""

    def apply(self, inputs: Tensor) -> Tensor:
        first, second = split_pairs(inputs)
        return torch.cat((second, first), dim=1)

    def adjoint(self, outputs: Tensor) -> Tensor:
        return self.apply(outputs)

    def magnitude(self, size: Tensor) -> Tensor:
        return self.apply(size)


@dataclass(frozen=True)
class Difference(_Unbiased):
    """(a, b) -> a - b."""

    def apply(self, inputs: Tensor) -> Tensor:
        first, second = split_pairs(inputs)
        return first - second

    def adjoint(self, outputs: Tensor) -> Tensor:
        return torch.cat((outputs, -outputs), dim=1)

    def magnitude(self, size: Tensor) -> Tensor:
        first, second = split_pairs(size)
        return first + second


@dataclass(frozen=True)
class Spread(_Unbiased):
    """r -> (r, -r)."""

    def apply(self, inputs: Tensor) -> Tensor:
        return torch.cat((inputs, -inputs), dim=1)

    def adjoint(self, outputs: Tensor) -> Tensor:
        first, second = split_pairs(outputs)
        return first - second

    def magnitude(self, size: Tensor) -> Tensor:
        return torch.cat((size, size), dim=1)


def half(shape: Shape) -> Shape:
    """Return the shape of one half of the channels."""
    return (shape[0] // 2, *shape[1:])


def difference_box(box: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the range of a - b from the box of (a, b), one rounding wider."""
    (first_lower, second_lower), (first_upper, second_upper) = (split_pairs(end) for end in box)
    return (
        torch.nextafter(first_lower - second_upper, torch.full_like(first_lower, -math.inf)),
        torch.nextafter(first_upper - second_lower, torch.full_like(first_upper, math.inf)),
    )
