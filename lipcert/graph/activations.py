"""The table of activations: what bounds ask of each, forward and backward.

A `Nonlinearity` is 1-Lipschitz in l2, keeps the shape and selects among exact numbers, so that it adds no rounding,
where it does not say otherwise. Most are a `Clamp`, elementwise min(max(z, low), high); MaxMin sorts pairs of channels.
`register_activation` adds a row, which serves forward bounds, backward bounds and training alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lipcert.graph.operators import Box, Shape
from lipcert.nn import ClippedReLU, UnsupportedLayerError
from lipcert.nn.activations import clipped_relu
from lipcert.nn.integrity import REGISTERED


class Nonlinearity:
    """What bounds ask of an activation; the box `lower`, `upper` is that of its input, (B, *shape) each.

    Raises:
        NotImplementedError: by `apply`, `range`, `rounding` and `steps` where a subclass leaves them out.
    """

    slopes: tuple[float, float] | None = None
    """Smallest and largest slope of an elementwise activation; None for one that is not elementwise."""

    lipschitz: Tensor | float | None = None
    """Lipschitz constant in l2 everywhere, () or a number; None for 1 and slopes 0 and 1 alone, as masks know them."""

    operations: int = 0
    """Rounded operations of an executed output, relative to `magnitude`."""

    monotone: bool = False
    """Whether outputs only grow with inputs, so that `range` is `apply` at both ends."""

    executable: bool = True
    """Whether these bound what an executed output may be off by; False leaves certificates of the exact network."""

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape behind the activation, without the batch; `shape`: before it."""
        return shape

    def gains(self, lower: Tensor, upper: Tensor) -> Tensor | None:
        """Return the largest absolute slope of each neuron over the box, where `lipschitz` and `slopes` are given."""
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

    def steps(self, shape: Shape) -> Sequence[Step | Enclosed]:
        """Return the steps that backward bounds follow on (B, *shape), first to last."""
        raise NotImplementedError


class Step(Nonlinearity):
    """What backward bounds follow: σ(z) = M z + Kᵀ c(T z), c a clamp of every entry; M = 0, K = T = I here.

    Kinks of c are at 0 where M is not 0.

    Attributes:
        stretch: upper bound of |T|, `square` that of |T|², up to rounding.
    """

    stretch: float = 1.0
    square: float = 1.0

    @property
    def clamp(self) -> Clamp:
        """c."""
        return RELU

    def steps(self, shape: Shape) -> Sequence[Step]:
        return (self,)

    def seen(self, values: Tensor) -> Tensor:
        """Return T z for `values` z, (B, *shape)."""
        return values

    def seen_box(self, lower: Tensor, upper: Tensor) -> Box:
        """Return a box of T z."""
        return lower, upper

    def shown(self, slopes: Tensor) -> Tensor:
        """Return Tᵀ g for rows g of T z, (R, ...)."""
        return slopes

    def passed(self, rows: Tensor) -> Tensor | None:
        """Return Mᵀ a for rows a of the output, (R, *shape); None for zeros."""
        return None

    def bent(self, rows: Tensor) -> Tensor:
        """Return K a for rows a of the output, (R, *shape)."""
        return rows

    def turn(self, like: Tensor) -> Tensor | float:
        """Return β for values `like` T z, of which σ is built with b(t) = c(t) + β min(t, 0).

        |σ(z) - σ(y)|² is at most what T leaves of |z - y|², and Σ (b(T z) - b(T y))² / `square`.
        """
        return 0.0

    def weight(self, rows: Tensor) -> Tensor:
        """Return what the rounding of Mᵀ a, K a and Tᵀ g is relative to besides these themselves, (R, *shape)."""
        return rows.abs()


class Lines(NamedTuple):
    """Slopes and intercepts of a lower and an upper line; all of one shape, (B, *shape).

    Of an `Enclosed` activation slopes are (B, K, *output_shape), those of K inputs of each output.
    """

    lower_slope: Tensor
    lower_intercept: Tensor
    upper_slope: Tensor
    upper_intercept: Tensor


class Enclosed(Nonlinearity):
    """What backward bounds follow by two lines over a box alone."""

    def steps(self, shape: Shape) -> Sequence[Enclosed]:
        return (self,)

    def lines(self, lower: Tensor, upper: Tensor) -> Lines:
        """Return lines below and above the activation all over the box, rounding included."""
        raise NotImplementedError

    def gathered(self, slopes: Tensor, shape: Shape) -> Tensor:
        """Return sums over outputs of slopes, (R, K, *output_shape), at the inputs they are of, (R, *shape)."""
        return slopes[:, 0]


@dataclass(frozen=True, eq=False)
class Clamp(Step):
    """min(max(z, low), high), elementwise; either may be missing, `high` wins where they cross.

    `low`, `high`: numbers that the executed precision holds exactly, or tensors (1, *shape).
    """

    low: Tensor | float | None = None
    high: Tensor | float | None = None
    slopes = (0.0, 1.0)
    monotone = True

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
            reached = lower if self.low is None else lower.clamp_min(self.low)  # so that high <= low is reached
            constant += _compared(torch.ge, reached, self.high)
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

    @property
    def clamp(self) -> Clamp:
        return self


RELU = Clamp(0.0)


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


def check_thresholds(layer: nn.Module, thresholds: Tensor, shape: Shape) -> None:
    own, needed = tuple(thresholds.shape), (1, *shape)
    if len(own) != len(needed) or any(mine not in (1, theirs) for mine, theirs in zip(own, needed, strict=True)):
        raise UnsupportedLayerError(
            f"this {type(layer).__name__} has thresholds of shape {own}, what reaches it needs {needed}: "
            "the same for every image."
        )


def _clipped_relu(layer: ClippedReLU, shape: Shape) -> Nonlinearity:
    check_thresholds(layer, layer.threshold, shape)
    return Positive(layer.threshold)


def _band(layer: nn.Hardtanh, shape: Shape) -> Nonlinearity:
    low, high = float(layer.min_val), float(layer.max_val)
    exact = all(float(torch.tensor(end, dtype=torch.float32)) == end for end in (low, high))
    return Clamp(low, high) if exact else RoundedClamp(low, high)


register_activation(nn.ReLU6, _band)
register_activation(nn.Hardtanh, _band)
register_activation(nn.ReLU, lambda layer, shape: Positive())
register_activation(ClippedReLU, _clipped_relu)


def _compared(compare: Callable[..., Tensor], values: Tensor, limit: Tensor | float | None) -> Tensor:
    """Return 1 where the comparison holds, else 0, in the dtype of `values`."""
    return compare(values, limit, out=torch.empty_like(values))
