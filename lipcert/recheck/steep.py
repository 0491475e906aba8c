"""Activations whose slope is not 0 or 1, or which make one output of several inputs: bends at 0, and max pooling."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipcert.nn import Abs, Householder
from lipcert.recheck.activations import Activation, Masks, describe_activation

INFINITY = torch.tensor(torch.inf, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Bent(Activation):
    """z above 0 and `slope` z below; `slope`: a number a channel, or one, (C,) or (1,).

    `operations`: roundings on the way to an output below 0.
    """

    slope: Tensor = INFINITY
    operations: int = 0
    steep = True

    def _left(self, like: Tensor) -> Tensor:
        return self.slope.view(1, -1, *(1 for _ in like.shape[2:])).expand_as(like)

    def __call__(self, values: Tensor) -> Tensor:
        return torch.where(values < 0, self._left(values) * values, values)

    def box(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        crossing = (lower < 0) & (upper > 0)
        first, last = self(lower), self(upper)
        least, greatest = torch.minimum(first, last), torch.maximum(first, last)
        return torch.where(crossing, least.clamp(max=0), least), torch.where(crossing, greatest.clamp(min=0), greatest)

    @property
    def slope_below(self) -> Tensor:
        return self.slope

    @property
    def constant(self) -> float:
        return max(1.0, float(self.slope.abs().max()))

    def masks(self, lower: Tensor, upper: Tensor) -> Masks:
        ones = torch.ones_like(lower)
        return Masks(ones, ones, None, ones, ones, 1.0)

    def gains(self, lower: Tensor, upper: Tensor) -> Tensor:
        left, right = self._left(lower).abs() * (lower < 0), (upper > 0).double()
        return torch.maximum(left, right)

    def passed(self, entries: Tensor) -> Tensor:
        return entries * torch.maximum(self._left(entries).abs(), torch.ones_like(entries))

    def evaluated(self, lower: Tensor, upper: Tensor) -> Tensor:
        return (self._left(lower) * lower.clamp(max=0)).abs()


@dataclass(frozen=True, eq=False)
class Pooled(Activation):
    """The largest pixel of each window: `layer`."""

    layer: nn.MaxPool2d = nn.MaxPool2d(1)  # noqa: RUF009  which one is always given
    steep = True

    @property
    def followed(self) -> bool:  # type: ignore[override]
        return not self.layer.ceil_mode

    def __call__(self, values: Tensor) -> Tensor:
        found: Tensor = self.layer(values)
        return found

    @property
    def constant(self) -> float:
        """Root of the number of windows that a pixel is in: taps that are multiples of the stride apart."""
        kernel, stride, dilation = self._sizes()
        counts = [
            max(sum(1 for tap in range(k) if (d * (tap - first)) % s == 0) for first in range(k))
            for k, s, d in zip(kernel, stride, dilation, strict=True)
        ]
        return math.sqrt(counts[0] * counts[1]) * (1 + 1e-12)

    def masks(self, lower: Tensor, upper: Tensor) -> Masks:
        ones, needed = torch.ones_like(self(lower)), self._needed(lower, upper)
        return Masks(ones, needed, None, ones, needed, 1.0)

    def _needed(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Return 1 for pixels that may be the only largest of a window, all of them in ceil mode."""
        if self.layer.ceil_mode:
            return torch.ones_like(lower)
        pixels, places = math.prod(lower.shape[2:]), self.windows(lower)
        least = self(lower).flatten(2)[0].unsqueeze(1).expand(-1, *places.shape).flatten(1)
        flat = torch.full((lower.shape[1], pixels + 1), torch.inf, dtype=torch.float64)
        flat = flat.scatter_reduce(1, places.flatten().expand_as(least), least, "amin")
        return (upper > flat[:, 1:].view_as(upper)).double()

    def windows(self, like: Tensor) -> Tensor:
        """Return the pixels of each window of a channel, (pixels of a window, windows), from 1 on; 0 for outside."""
        kernel, stride, dilation = self._sizes()
        numbers = torch.arange(1.0, math.prod(like.shape[2:]) + 1, dtype=torch.float64).view(1, 1, *like.shape[2:])
        return F.unfold(numbers, kernel, dilation, self.layer.padding, stride)[0].long()

    def passed(self, entries: Tensor) -> Tensor:
        return self(entries)

    def _sizes(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        sizes = (self.layer.kernel_size, self.layer.stride, self.layer.dilation)
        kernel, stride, dilation = ((each, each) if isinstance(each, int) else (each[0], each[1]) for each in sizes)
        return kernel, stride, dilation


@dataclass(frozen=True, eq=False)
class Reflected(Activation):
    """z where v·z > 0, z - 2 v (v·z) for other pairs; `direction`: v, of length 1, (2, C/2).

    Entry i is the larger of z_i and of its reflection where v_i > 0, else the smaller one.
    """

    direction: Tensor = INFINITY
    operations: int = 10
    steep = True

    @property
    def axis(self) -> tuple[Tensor, Tensor]:
        return self.direction[0], self.direction[1]

    def _weights(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return v, and v with its entries exchanged, for values (1, C, ...)."""
        own, other = (
            each.reshape(1, -1, *(1 for _ in like.shape[2:])) for each in (self.direction, self.direction.flip(0))
        )
        return own, other

    @staticmethod
    def _partners(values: Tensor) -> Tensor:
        return values.roll(values.shape[1] // 2, dims=1)

    def __call__(self, values: Tensor) -> Tensor:
        own, other = self._weights(values)
        across = own * values + other * self._partners(values)
        return torch.where(across > 0, values, values - 2 * own * across)

    def box(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """By Lagrange: z_i - 2 r v_i (v·z) for r in [0, 1], linear; the best r is an end or where z_i drops out."""
        own, other = self._weights(lower)
        ends = []
        for sign, first, last in ((1, lower, upper), (-1, upper, lower)):  # least, then greatest
            found = []
            for share in (torch.zeros_like(own), torch.ones_like(own), (0.5 / own.square()).clamp(max=1)):
                mine, theirs = 1 - 2 * share * own.square(), -2 * share * own * other
                near, far = self._partners(first), self._partners(last)
                whole = torch.where(mine >= 0, mine * first, mine * last)
                found.append(whole + torch.where(theirs >= 0, theirs * near, theirs * far))
            outer = torch.stack(found[:2]).amin(dim=0) if sign > 0 else torch.stack(found[:2]).amax(dim=0)
            inner = torch.stack(found).amax(dim=0) if sign > 0 else torch.stack(found).amin(dim=0)
            ends.append(torch.where(sign * own > 0, inner, outer))
        return ends[0], ends[1]

    def masks(self, lower: Tensor, upper: Tensor) -> Masks:
        ones = torch.ones_like(lower)
        return Masks(ones, ones, None, ones, ones, 1.0)

    def passed(self, entries: Tensor) -> Tensor:
        return (entries.square() + self._partners(entries).square()).sqrt() * (1 + 1e-5)

    def evaluated(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Also above what underflow loses where directions are of ordinary length; infinite where one may overflow."""
        (own, other), size = self._weights(lower), torch.maximum(lower.abs(), upper.abs())
        moved = 2 * own.abs() * (own.abs() * size + other.abs() * self._partners(size))
        return torch.where(size <= 1e36, size + moved + 1e-29, torch.inf)


def _bent(name: str, slope: Tensor, operations: int) -> Bent:
    return Bent(name, False, INFINITY, -INFINITY, slope=slope, operations=operations)


@describe_activation.register
def _(module: nn.LeakyReLU, name: str) -> Activation:
    return _bent(name, torch.tensor([module.negative_slope], dtype=torch.float64), 2)  # rounded to the dtype, too


@describe_activation.register
def _(module: nn.PReLU, name: str) -> Activation:
    return _bent(name, module.weight.detach().double(), 1)


@describe_activation.register
def _(module: Abs, name: str) -> Activation:
    return _bent(name, torch.tensor([-1.0], dtype=torch.float64), 0)


@describe_activation.register
def _(module: nn.MaxPool2d, name: str) -> Activation:
    if module.return_indices:
        raise NotImplementedError(f"Layer {name!r} returns indices; it cannot be re-checked.")
    return Pooled(name, False, INFINITY, -INFINITY, layer=module)


@describe_activation.register
def _(module: Householder, name: str) -> Activation:
    directions = module.directions.detach().double()
    lengths = directions.norm(dim=0)
    if not bool(((lengths >= 0.25) & (lengths <= 100)).all()):
        raise NotImplementedError(f"Layer {name!r} has directions of lengths outside [0.25, 100].")
    return Reflected(name, False, INFINITY, -INFINITY, direction=directions / lengths)
