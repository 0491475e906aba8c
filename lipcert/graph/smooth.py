"""Smooth activations, elementwise: between points where σ' or σ'' is 0, σ and its slope are monotone.

Their executed values are sums and products of exponentials and error functions, whose rounding no standard bounds:
certificates are of the exact network alone. Values in float64 are taken to be right to 2^10 units in the last place
of 1 + |z|.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipcert.graph.activations import Enclosed, Lines, register_activation
from lipcert.graph.operators import Box, Shape
from lipcert.nn import UnsupportedLayerError

ROOM = 2**10
"""Units in the last place by which ranges and slopes are wider than their computed ends."""

CELLS = 32
"""Parts of an interval, at whose ends values are taken."""

SMALLEST_THRESHOLD = 20
"""Of a Softplus: log(1 + exp(z)) is less than 2.1e-9 above z there, and torch takes z."""


@dataclass(frozen=True, eq=False)
class Smooth(Enclosed):
    """A smooth activation σ.

    `function`, `derivative`: σ and σ'. `turns`: where σ' is 0 and changes its sign, `inflections`: the same of σ''.
    `slope_range`: least and largest value of σ'; `curvature`: upper bound on the moduli of σ''.
    """

    function: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]
    slope_range: tuple[float, float]
    curvature: float
    inflections: tuple[float, ...]
    turns: tuple[float, ...] = ()
    operations = 4
    executable = False

    @property
    def slopes(self) -> tuple[float, float]:  # type: ignore[override]
        return self.slope_range

    @property
    def lipschitz(self) -> float:  # type: ignore[override]
        return max(-self.slope_range[0], self.slope_range[1]) * (1 + 1e-12)

    def apply(self, inputs: Tensor) -> Tensor:
        return self.function(inputs)

    def _extremes(self, values: Callable[[Tensor], Tensor], places: tuple[float, ...], box: Box) -> Box:
        """Return the least and the largest value over a box, which is at an end or at one of the places."""
        lower, upper = box
        points = [lower, upper, *(lower.clamp_min(place).minimum(upper) for place in places)]
        found = torch.stack([values(each) for each in points])
        slack = self._slack(lower, upper)
        return found.amin(dim=0) - slack, found.amax(dim=0) + slack

    @staticmethod
    def _slack(lower: Tensor, upper: Tensor) -> Tensor:
        return ROOM * torch.finfo(lower.dtype).eps * (1 + torch.maximum(lower.abs(), upper.abs()))

    def range(self, lower: Tensor, upper: Tensor) -> Box:
        return self._extremes(self.function, self.turns, (lower, upper))

    def gains(self, lower: Tensor, upper: Tensor) -> Tensor:
        least, greatest = self._extremes(self.derivative, self.inflections, (lower, upper))
        return torch.maximum(-least, greatest).clamp_max(self.lipschitz)

    def lines(self, lower: Tensor, upper: Tensor) -> Lines:
        """Return the lines that are closest in the middle, of those along the chord, tangents and constants.

        Between two points that are h apart σ is within σ'' h²/8 of its chord, so that values at few points say all.
        """
        middle, width = (lower + upper) / 2, upper - lower
        shares = torch.linspace(0, 1, CELLS + 1, dtype=lower.dtype, device=lower.device)
        points = lower + shares.view(-1, *(1 for _ in lower.shape)) * width
        values = self.function(points)
        slack = self.curvature * (width / CELLS).square() / 8 + self._slack(lower, upper)
        chord = (values[-1] - values[0]) / torch.where(width > 0, width, 1)
        slopes = [torch.zeros_like(chord), chord, *(self.derivative(each) for each in (lower, middle, upper))]
        least, greatest = self.range(lower, upper)
        below, above = [(slopes[0], least)], [(slopes[0], greatest)]
        for slope in slopes[1:]:
            gaps = values - slope * points
            below.append((slope, gaps.amin(dim=0) - slack))
            above.append((slope, gaps.amax(dim=0) + slack))
        lower_slope, lower_intercept = _best(below, middle, torch.gt)
        upper_slope, upper_intercept = _best(above, middle, torch.lt)
        return Lines(lower_slope.unsqueeze(1), lower_intercept, upper_slope.unsqueeze(1), upper_intercept)

    def rounding(self, entries: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        return entries * self.lipschitz

    def magnitude(self, lower: Tensor, upper: Tensor) -> Tensor:
        return 1 + torch.maximum(lower.abs(), upper.abs())


def _best(
    lines: list[tuple[Tensor, Tensor]], at: Tensor, better: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return slope and intercept of the line whose value at a point is the best, entry by entry."""
    slope, intercept = lines[0]
    for other, constant in lines[1:]:
        chosen = better(other * at + constant, slope * at + intercept)
        slope, intercept = torch.where(chosen, other, slope), torch.where(chosen, constant, intercept)
    return slope, intercept


def _tanh_slope(values: Tensor) -> Tensor:
    return 1 - torch.tanh(values).square()


def _sigmoid_slope(values: Tensor) -> Tensor:
    return torch.sigmoid(values) * torch.sigmoid(-values)


def _silu_slope(values: Tensor) -> Tensor:
    return torch.sigmoid(values) * (1 + values * torch.sigmoid(-values))


def _gelu_slope(values: Tensor) -> Tensor:
    density = torch.exp(-values.square() / 2) / math.sqrt(2 * math.pi)
    return torch.erfc(-values / math.sqrt(2)) / 2 + values * density


def _gelu_tanh(values: Tensor) -> Tensor:
    return F.gelu(values, approximate="tanh")


def _gelu_tanh_slope(values: Tensor) -> Tensor:
    root, cube = math.sqrt(2 / math.pi), 0.044715
    inner = torch.tanh(root * (values + cube * values**3))
    return (1 + inner + values * (1 - inner.square()) * root * (1 + 3 * cube * values.square())) / 2


TANH = Smooth(torch.tanh, _tanh_slope, (0.0, 1.0), 0.7699, (0.0,))
SIGMOID = Smooth(torch.sigmoid, _sigmoid_slope, (0.0, 0.25), 0.0963, (0.0,))
SILU = Smooth(
    F.silu,
    _silu_slope,
    (-0.099839320128866917, 1.099839320128866917),
    0.5001,
    (-2.3993572805154676678, 2.3993572805154676678),
    (-1.2784645427610737951,),
)
GELU = Smooth(
    F.gelu,
    _gelu_slope,
    (-0.12890414518515478634, 1.1289041451851547863),
    0.798,
    (-math.sqrt(2), math.sqrt(2)),
    (-0.75179152469356445746,),
)
GELU_TANH = Smooth(
    _gelu_tanh,
    _gelu_tanh_slope,
    (-0.12899306865877176546, 1.1289930686587717655),
    0.798,
    (-1.4185040087908283555, 1.4185040087908283555),
    (-0.75246142207101625849,),
)


@dataclass(frozen=True)
class _Softplus:
    """log(1 + exp(beta z)) / beta, or its slope."""

    beta: float
    slope: bool = False

    def __call__(self, values: Tensor) -> Tensor:
        scaled = self.beta * values
        return torch.sigmoid(scaled) if self.slope else torch.logaddexp(scaled, torch.zeros_like(scaled)) / self.beta


def _softplus(layer: nn.Softplus, shape: Shape) -> Smooth:
    beta, threshold = float(layer.beta), float(layer.threshold)
    if not (1e-3 <= beta <= 1e3 and threshold >= SMALLEST_THRESHOLD):
        raise UnsupportedLayerError(
            f"a Softplus needs beta in [1e-3, 1e3] and threshold >= {SMALLEST_THRESHOLD}, got {beta} and {threshold}: "
            "below that torch leaves the curve visibly."
        )
    return Smooth(_Softplus(beta), _Softplus(beta, slope=True), (0.0, 1.0), 0.2501 * beta, ())


def _gelu(layer: nn.GELU, shape: Shape) -> Smooth:
    return GELU if layer.approximate == "none" else GELU_TANH


register_activation(nn.Tanh, lambda layer, shape: TANH)
register_activation(nn.Sigmoid, lambda layer, shape: SIGMOID)
register_activation(nn.SiLU, lambda layer, shape: SILU)
register_activation(nn.GELU, _gelu)
register_activation(nn.Softplus, _softplus)
