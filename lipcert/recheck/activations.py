"""Activations over a box of their inputs: what can vary, what is linear, and what is left beside the linear part."""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch

import torch
from torch import Tensor, nn

from lipcert.nn import ClippedMaxMin, ClippedReLU, MaxMin

_ZERO = torch.tensor(0.0, dtype=torch.float64)

ROOT = torch.tensor(0.5, dtype=torch.float64).sqrt()


@dataclass(frozen=True, eq=False)
class Activation:
    """One activation in float64; every clipped kind is described by thresholds, infinite where it has none.

    `paired`: MaxMin kinds, whose thresholds clip the larger half from above and the smaller from below; otherwise
    min(max(z, floor), high). Thresholds broadcast against (1, C, ...), or (1, C/2, ...) when paired.
    `operations`: roundings of an output, relative to `evaluated`. `constant`: Lipschitz constant in l2.
    """

    name: str
    paired: bool
    high: Tensor
    low: Tensor
    floor: Tensor = _ZERO
    operations: int = 0

    steep = False
    """Whether its constant, its masks or its box are its own."""

    followed = True
    """Whether it is bounded backward."""

    @property
    def axis(self) -> tuple[Tensor, Tensor] | None:
        """Unit vectors along which pairs are reflected, (C/2,) or () each; None where none are."""
        return (ROOT, -ROOT) if self.paired else None

    def windows(self, like: Tensor) -> Tensor | None:
        """Return which pixels of a channel make each output, (pixels, outputs), from 1 on; None for other outputs."""
        return None

    @property
    def slope_below(self) -> Tensor | None:
        """Slope below 0, (C,) or (1,), of what has one, and 1 above; None for others."""
        return None

    @property
    def constant(self) -> float:
        """Lipschitz constant in l2, everywhere."""
        return 1.0

    def gains(self, lower: Tensor, upper: Tensor) -> Tensor | None:
        """Return the steepest slope of each neuron over a box of inputs; None where masks say all."""
        return None

    def box(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Return the box of the outputs over one of the inputs."""
        return self(lower), self(upper)

    def masks(self, lower: Tensor, upper: Tensor) -> Masks:
        """Return the masks over a box of the inputs, (1, ...)."""
        return _paired_masks(self, lower, upper) if self.paired else _clamp_masks(self, lower, upper)

    def passed(self, entries: Tensor) -> Tensor:
        """Return how far each output can be off where the inputs are by `entries`, (1, ...)."""
        if not self.paired:
            return entries
        first, second = entries.chunk(2, dim=1)
        return torch.maximum(first, second).repeat(1, 2, *(1 for _ in entries.shape[2:]))

    def evaluated(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Return what the rounding of outputs is relative to, over a box of the inputs."""
        return torch.maximum(*(end.abs() for end in self.box(lower, upper)))

    def __call__(self, values: Tensor) -> Tensor:
        """Return the outputs, shape as `values`, (B, ...)."""
        if not self.paired:
            return torch.minimum(torch.maximum(values, self.floor), self.high)
        first, second = values.chunk(2, dim=1)
        larger = torch.minimum(torch.maximum(first, second), self.high)
        return torch.cat((larger, torch.maximum(torch.minimum(first, second), self.low)), dim=1)


_INFINITY = torch.tensor(torch.inf, dtype=torch.float64)


@singledispatch
def describe_activation(module: nn.Module, name: str) -> Activation:
    """Return an activation in float64.

    Raises:
        NotImplementedError: for a module that is no known activation.
        ValueError: for a negative threshold of a ClippedReLU.
    """
    raise NotImplementedError(f"Layer {name!r} ({type(module).__name__}) cannot be re-checked.")


@describe_activation.register
def _(module: nn.ReLU, name: str) -> Activation:
    return Activation(name, False, _INFINITY, -_INFINITY)


@describe_activation.register
def _(module: ClippedReLU, name: str) -> Activation:
    threshold = module.threshold.detach().double()
    if bool((threshold < 0).any()):
        raise ValueError(f"Layer {name!r} has a negative threshold.")
    return Activation(name, False, threshold, -_INFINITY)


@describe_activation.register(nn.Hardtanh)
@describe_activation.register(nn.ReLU6)
def _(module: nn.Hardtanh, name: str) -> Activation:
    low, high = (torch.tensor(float(end), dtype=torch.float64) for end in (module.min_val, module.max_val))
    exact = bool((low.float() == low) & (high.float() == high))
    return Activation(name, False, high, -_INFINITY, floor=low, operations=0 if exact else 1)


@describe_activation.register
def _(module: MaxMin, name: str) -> Activation:
    return Activation(name, True, _INFINITY, -_INFINITY)


@describe_activation.register
def _(module: ClippedMaxMin, name: str) -> Activation:
    return Activation(name, True, module.max.detach().double(), module.min.detach().double())


@dataclass(frozen=True, eq=False)
class Masks:
    """Which inputs and outputs of an activation matter over a box; all 0 or 1 but `slope`, shape (1, ...).

    `varying`: outputs that are not constant; `needed`: inputs that a varying output depends on.
    `slope`: D of the linear part (0, 1/2, 1), None when there is none; the remainder sigma(z') - sigma(z) - D (z' - z)
    lives on the outputs `unstable`, is fed by the inputs `needed_unstable` and is `remainder`-Lipschitz in them.
    """

    varying: Tensor
    needed: Tensor
    slope: Tensor | None
    unstable: Tensor
    needed_unstable: Tensor
    remainder: float


def masks(activation: Activation, lower: Tensor, upper: Tensor) -> Masks:
    """Return the masks over the box [lower, upper] of an activation's inputs, (1, ...)."""
    return activation.masks(lower, upper)


def _clamp_masks(activation: Activation, lower: Tensor, upper: Tensor) -> Masks:
    constant = (upper <= activation.floor) | (lower >= activation.high)
    linear = ~constant & (lower >= activation.floor) & (upper <= activation.high)
    varying = (~constant).double()
    unstable = (~constant & ~linear).double()
    slope = linear.double() + unstable / 2
    return Masks(varying, varying, slope, unstable, unstable, 0.5)


def _paired_masks(activation: Activation, lower: Tensor, upper: Tensor) -> Masks:
    first_lower, second_lower = lower.chunk(2, dim=1)
    first_upper, second_upper = upper.chunk(2, dim=1)
    larger = torch.maximum(first_lower, second_lower) < activation.high
    smaller = torch.minimum(first_upper, second_upper) > activation.low
    first_wins, second_wins = first_lower >= second_upper, second_lower >= first_upper
    either = larger | smaller
    first = torch.where(first_wins, larger, torch.where(second_wins, smaller, either))
    second = torch.where(first_wins, smaller, torch.where(second_wins, larger, either))
    varying = torch.cat((larger, smaller), dim=1).double()
    needed = torch.cat((first, second), dim=1).double()
    return Masks(varying, needed, None, varying, needed, 1.0)


def output_range(activation: Activation, lower: Tensor, upper: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
    """Return the extremes of sigma(z') - sigma(center) over the box [lower, upper], each (1, ...)."""
    value = activation(center)
    least, greatest = activation.box(lower, upper)
    return least - value, greatest - value


def remainder_range(
    activation: Activation, slope: Tensor | None, lower: Tensor, upper: Tensor, center: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the extremes of sigma(z') - sigma(center) - slope (z' - center) over the box, each (1, ...).

    The function is linear between its kinks, so its extremes lie at the ends of the box or at a kink inside.
    """
    if slope is None:
        return output_range(activation, lower, upper, center)
    kinks = (
        lower,
        upper,
        activation.floor.expand_as(lower),
        torch.where(activation.high.isinf(), lower, activation.high),
    )
    points = torch.stack([torch.maximum(torch.minimum(kink, upper), lower) for kink in kinks])
    values = activation(points.flatten(0, 1)).view_as(points) - activation(center) - slope * (points - center)
    return values.amin(dim=0), values.amax(dim=0)
