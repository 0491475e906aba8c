"""The table of activations: what bounds ask of each, forward and backward.

A `Nonlinearity` is 1-Lipschitz in l2, keeps the shape and selects among exact numbers, so that it adds no rounding,
where it does not say otherwise. Most are a `Clamp`, elementwise min(max(z, low), high); MaxMin sorts pairs of channels.
`register_activation` adds a row, which serves forward bounds, backward bounds and training alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lipcert.graph.operators import Box, Shape
from lipcert.nn import ClippedMaxMin, ClippedReLU, MaxMin, UnsupportedLayerError
from lipcert.nn.activations import clipped_max_min, clipped_relu, max_min, split_pairs
from lipcert.nn.integrity import REGISTERED


class Nonlinearity:
    """What bounds ask of an activation; the box `lower`, `upper` is that of its input, (B, *shape) each.

    Raises:
        NotImplementedError: by `apply`, `range`, `rounding` and `clamps` where a subclass leaves them out.
    """

    slopes: tuple[float, float] | None = None
    """Smallest and largest slope of an elementwise activation; None for one that is not elementwise."""

    lipschitz: Tensor | float | None = None
    """Lipschitz constant in l2 everywhere, () or a number; None for 1 and slopes 0 and 1 alone, as masks know them."""

    operations: int = 0
    """Rounded operations of an executed output, relative to `magnitude`."""

    executable: bool = True
    """Whether these bound what an executed output may be off by; False leaves certificates of the exact network."""

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape behind the activation, without the batch; `shape`: before it."""
        return shape

    def gains(self, lower: Tensor, upper: Tensor) -> Tensor | None:
        """Return the largest absolute slope of each neuron over the box, where `lipschitz` is given and elementwise."""
        return None

    def magnitude(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Return what the rounding of executed outputs is relative to, where there are `operations`."""
        raise NotImplementedError

    def apply(self, inputs: Tensor) -> Tensor:
        """Return the activation's output for `inputs`, (B, *shape)."""
        raise NotImplementedError

    def range(self, lower: Tensor, upper: Tensor) -> Box:
        """Return a box of the output: its values at the ends for an activation that is monotone in every entry."""
        raise NotImplementedError

    def varying(self, lower: Tensor, upper: Tensor) -> Tensor | None:
        """Return 1 for outputs that vary over the box, 0 for constant ones, NaN counts as varying; None for ones."""
        return None

    def needed(self, lower: Tensor, upper: Tensor) -> Tensor | None:
        """Return 1 for inputs that any varying output depends on, 0 for others; None for ones."""
        return None if self.slopes is None else self.varying(lower, upper)

    def linear(self, lower: Tensor, upper: Tensor) -> Tensor | None:
        """Return 1 for neurons that equal their input all over the box, 0 for others; None where no slope is known."""
        return None

    def remainder(self, center: Tensor, lower: Tensor, upper: Tensor) -> Box | None:
        """Return the range of σ(z') - σ(z) - (z' - z)/2 over the box, z the `center`; None where none is known."""
        return None

    def rounding(self, entries: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """Return bounds on executed minus exact outputs, (B, *shape), from those of the inputs, `entries`."""
        raise NotImplementedError

    def clamps(self, shape: Shape) -> Sequence[Clamp | PairSort]:
        """Return the steps that backward bounds follow on (B, *shape), clamps and sorts of pairs, first to last."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Clamp(Nonlinearity):
    """min(max(z, low), high), elementwise; either may be missing, `high` wins where they cross.

    `low`, `high`: numbers that the executed precision holds exactly, or tensors (1, *shape).
    """

    low: Tensor | float | None = None
    high: Tensor | float | None = None
    slopes = (0.0, 1.0)

    def apply(self, inputs: Tensor) -> Tensor:
        raised = inputs if self.low is None else inputs.clamp_min(self.low)
        return raised if self.high is None else raised.clamp_max(self.high)

    def range(self, lower: Tensor, upper: Tensor) -> Box:
        return self.apply(lower), self.apply(upper)

    @torch.no_grad()
    def varying(self, lower: Tensor, upper: Tensor) -> Tensor:
        # Comparisons write numbers at once: truth values and their conversion take twice as long.
        constant = torch.zeros_like(upper) if self.low is None else _compared(torch.le, upper, self.low)
        if self.high is not None:
            constant += _compared(torch.ge, lower, self._reached_high())
        return torch.lt(constant, 1, out=constant)

    def _reached_high(self) -> Tensor | float:
        """Return the input from which on the output is `high`, infinite where there is none: any where low >= high."""
        if self.high is None:
            return torch.inf
        if self.low is None:
            return self.high
        crossed = self.high <= self.low  # NaN is not
        if isinstance(crossed, Tensor):
            return torch.where(crossed, -torch.inf, self.high)
        return -torch.inf if crossed else self.high

    def linear(self, lower: Tensor, upper: Tensor) -> Tensor:
        inside = torch.ones_like(lower, dtype=torch.bool)
        inside = inside if self.low is None else inside & (lower >= self.low)
        inside = inside if self.high is None else inside & (upper <= self.high)
        return inside.to(lower.dtype)

    def remainder(self, center: Tensor, lower: Tensor, upper: Tensor) -> Box:
        # The function is piecewise linear: its extremes are at the ends of the box or at the kinks inside.
        ends = [end for end in (self.low, self.high) if end is not None]
        kinks = [end.expand_as(upper) if isinstance(end, Tensor) else torch.full_like(upper, end) for end in ends]
        points = [each.clamp(lower, upper) for each in (lower, upper, *kinks)]
        bent = torch.stack([self.apply(each) - each / 2 for each in points]) - (self.apply(center) - center / 2)
        return bent.amin(dim=0), bent.amax(dim=0)

    def rounding(self, entries: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        # None where the executed input, too, stays where the output is constant.
        clipped = torch.zeros_like(entries, dtype=torch.bool)
        clipped = clipped if self.low is None else clipped | (upper + entries <= self.low)
        clipped = clipped if self.high is None else clipped | (lower - entries >= self._reached_high())
        return torch.where(clipped, 0, entries)

    def clamps(self, shape: Shape) -> Sequence[Clamp | PairSort]:
        return (self,)


class RoundedClamp(Clamp):
    """A clamp between numbers of which the executed precision holds one that is near."""

    operations = 1

    def magnitude(self, lower: Tensor, upper: Tensor) -> Tensor:
        return torch.maximum(*(end.abs() for end in self.range(lower, upper)))


class Positive(Clamp):
    """Clamp between 0 and an optional threshold: ReLU and the clipped ReLU; fast, with gradients of the threshold."""

    def __init__(self, threshold: Tensor | None = None) -> None:
        super().__init__(0.0, threshold)

    def apply(self, inputs: Tensor) -> Tensor:
        return torch.relu(inputs) if self.high is None else clipped_relu(inputs, self.high)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class PairSort(Nonlinearity):
    """(a, b) -> (max(a, b), min(a, b)) over the two halves of the channels, clipped to `high` and `low` if given.

    `high`, `low`: thresholds of the larger and of the smaller half, (1, C/2, ...).
    """

    high: Tensor | None = None
    low: Tensor | None = None

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

    def clamps(self, shape: Shape) -> Sequence[Clamp | PairSort]:
        if self.high is None or self.low is None:
            return (self,)
        low, high = (each.expand(1, shape[0] // 2, *shape[1:]) for each in (self.low, self.high))
        free = torch.full_like(high, torch.inf)
        return PairSort(), Clamp(torch.cat((-free, low), dim=1), torch.cat((high, free), dim=1))


MAKERS: dict[type[nn.Module], Callable[[Any, Shape], Nonlinearity]] = {}
"""The table: what makes the nonlinearity of a layer of each class; `register_activation` adds rows."""


def register_activation(kind: type[nn.Module], make: Callable[[Any, Shape], Nonlinearity]) -> None:
    """Add an activation of your own to the layers that have bounds: forward, backward and in training.

    Args:
        kind: the layer's class.
        make: takes the layer and its input's shape without the batch, returns what it does. Everything that is
            certified rests on it; docs/extending/activation.md shows one, and how to test it.
    """
    MAKERS[kind] = make
    REGISTERED.add(kind)


def nonlinearity(layer: nn.Module, shape: Shape) -> Nonlinearity:
    """Return what bounds ask of an activation, `layer` of a registered class, on inputs (B, *shape).

    Raises:
        UnsupportedLayerError: for thresholds or channels that do not fit.
    """
    kind = next(each for each in type(layer).__mro__ if each in MAKERS)
    function = MAKERS[kind](layer, shape)
    tensors = (*layer.parameters(), *layer.buffers())
    zeros = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.zeros(())).new_zeros(1, *shape)
    output = tuple(function.apply(zeros).shape[1:])
    if output != function.output_shape(shape):
        raise UnsupportedLayerError(
            f"a {type(layer).__name__} for another shape broadcasts {shape} to {output}; "
            "its shape must be that of its input."
        )
    return function


def _check_thresholds(layer: nn.Module, thresholds: Tensor, shape: Shape) -> None:
    own, needed = tuple(thresholds.shape), (1, *shape)
    if len(own) != len(needed) or any(mine not in (1, theirs) for mine, theirs in zip(own, needed, strict=True)):
        raise UnsupportedLayerError(
            f"this {type(layer).__name__} has thresholds of shape {own}, what reaches it needs {needed}: "
            "the same for every image."
        )


def _clipped_relu(layer: ClippedReLU, shape: Shape) -> Nonlinearity:
    _check_thresholds(layer, layer.threshold, shape)
    return Positive(layer.threshold)


def _pairs(layer: MaxMin | ClippedMaxMin, shape: Shape) -> Nonlinearity:
    if shape[0] % 2:
        raise UnsupportedLayerError(f"a {type(layer).__name__} pairs channels, of which {shape} has an odd number.")
    if isinstance(layer, MaxMin):
        return PairSort()
    for thresholds in (layer.max, layer.min):
        _check_thresholds(layer, thresholds, (shape[0] // 2, *shape[1:]))
    return PairSort(layer.max, layer.min)


def _band(layer: nn.Hardtanh, shape: Shape) -> Nonlinearity:
    low, high = float(layer.min_val), float(layer.max_val)
    exact = all(float(torch.tensor(end, dtype=torch.float32)) == end for end in (low, high))
    return Clamp(low, high) if exact else RoundedClamp(low, high)


register_activation(nn.ReLU6, _band)
register_activation(nn.Hardtanh, _band)
register_activation(nn.ReLU, lambda layer, shape: Positive())
register_activation(ClippedReLU, _clipped_relu)
register_activation(MaxMin, _pairs)
register_activation(ClippedMaxMin, _pairs)


def _compared(compare: Callable[..., Tensor], values: Tensor, limit: Tensor | float | None) -> Tensor:
    """Return 1 where the comparison holds, else 0, in the dtype of `values`."""
    return compare(values, limit, out=torch.empty_like(values))
