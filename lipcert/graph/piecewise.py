"""Activations of two straight pieces: z above 0, slope * z below, the slope a number or one a channel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lipcert.graph.activations import Step, register_activation
from lipcert.graph.operators import Box, Shape
from lipcert.nn import Abs, UnsupportedLayerError


@dataclass(frozen=True, eq=False)
class Bend(Step):
    """max(z, 0) + slope * min(z, 0), elementwise: leaky ReLU, PReLU, the absolute value for a slope of -1.

    `slope`: a number, or a tensor (C,) or (1,). `operations`: rounded, of an output below 0.
    """

    slope: Tensor | float
    operations: int = 0

    @property
    def slopes(self) -> tuple[float, float]:  # type: ignore[override]
        least, greatest = (float(end) for end in torch.as_tensor(self.slope, dtype=torch.float64).detach().aminmax())
        return min(1.0, least), max(1.0, greatest)

    @property
    def lipschitz(self) -> Tensor | float:  # type: ignore[override]
        if isinstance(self.slope, Tensor):
            return self.slope.abs().amax().clamp_min(1)
        return max(1.0, abs(self.slope))

    def _slope(self, like: Tensor) -> Tensor | float:
        """Return the slope below 0 for values (B, C, ...)."""
        return self.slope.view(1, -1, *(1 for _ in like.shape[2:])) if isinstance(self.slope, Tensor) else self.slope

    def _below(self, inputs: Tensor) -> Tensor:
        """Return what becomes of the negative part of inputs, (B, C, ...)."""
        return self._slope(inputs) * inputs.clamp_max(0)

    def apply(self, inputs: Tensor) -> Tensor:
        return inputs.clamp_min(0) + self._below(inputs)

    def range(self, lower: Tensor, upper: Tensor) -> Box:
        values = torch.stack([self.apply(lower), self.apply(upper), self.apply(lower.clamp_min(0).minimum(upper))])
        return values.amin(dim=0), values.amax(dim=0)

    def gains(self, lower: Tensor, upper: Tensor) -> Tensor:
        above, below = (~(upper <= 0)).to(upper), -(~(lower >= 0)).to(upper)  # NaN counts as both
        return torch.maximum(above, self._below(below).abs())

    def linear(self, lower: Tensor, upper: Tensor) -> Tensor:
        return (lower >= 0).to(lower)

    def rounding(self, entries: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        return entries * self.lipschitz * (1 + 1e-5)  # for the rounding of what the error adds

    def magnitude(self, lower: Tensor, upper: Tensor) -> Tensor:
        return self._below(lower).abs()

    # slope z + (1 - slope) relu(z)

    def passed(self, rows: Tensor) -> Tensor:
        return self._slope(rows) * rows

    def bent(self, rows: Tensor) -> Tensor:
        return (1 - self._slope(rows)) * rows

    def turn(self, like: Tensor) -> Tensor | float:
        return self._slope(like)


def _leaky(layer: nn.LeakyReLU, shape: Shape) -> Bend:
    return Bend(layer.negative_slope, operations=2)  # the slope is rounded, too


def _per_channel(layer: nn.PReLU, shape: Shape) -> Bend:
    if layer.num_parameters not in (1, shape[0]):
        raise UnsupportedLayerError(f"a PReLU of {layer.num_parameters} channels does not fit {shape}.")
    return Bend(layer.weight, operations=1)


register_activation(nn.LeakyReLU, _leaky)
register_activation(nn.PReLU, _per_channel)
register_activation(Abs, lambda layer, shape: Bend(-1.0))
