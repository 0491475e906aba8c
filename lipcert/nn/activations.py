"""Activations that are 1-Lipschitz in l2 and constant over part of their input range, and what they select by.

The minimum and maximum here have the values of `torch.minimum` and `torch.maximum`, NaN included; at a tie the whole
gradient goes to the second argument. It costs a multiplication: selections (`where`, `masked_fill`) are an order of
magnitude slower than arithmetic on CPUs.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def sum_to_shape(values: Tensor, shape: torch.Size) -> Tensor:
    """Sum broadcast dimensions away, as autograd does; fast over the batch of channels-last tensors."""
    if values.shape == shape:
        return values
    over_batch_only = values.dim() == 4 and len(shape) == 4 and shape[0] == 1 and values.shape[1:] == shape[1:]
    if over_batch_only and values.stride(1) == 1:
        batch, channels, height, width = values.shape
        flat = values.permute(0, 2, 3, 1).reshape(batch, -1)
        return (flat.new_ones(batch) @ flat).view(1, height, width, channels).permute(0, 3, 1, 2)
    return values.sum_to_size(shape)


class _Extremum(torch.autograd.Function):
    """`sign` +1 for the minimum, -1 for the maximum."""

    generate_vmap_rule = True

    @staticmethod
    def forward(first: Tensor, second: Tensor, sign: int) -> Tensor:
        return torch.minimum(first, second) if sign > 0 else torch.maximum(first, second)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.sign = inputs[2]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        first, second = ctx.saved_tensors
        lead = second - first if ctx.sign > 0 else first - second
        to_first = torch.ops.aten.threshold_backward(gradient, lead, 0)  # the gradient where the lead is positive
        return (
            sum_to_shape(to_first, first.shape) if ctx.needs_input_grad[0] else None,
            sum_to_shape(gradient - to_first, second.shape) if ctx.needs_input_grad[1] else None,
            None,
        )


def _has_gradient(first: Tensor, second: Tensor) -> bool:
    """Whether autograd records; where it does not, torch's own functions save the call of a function of ours."""
    return torch.is_grad_enabled() and (first.requires_grad or second.requires_grad)


def minimum(first: Tensor, second: Tensor) -> Tensor:
    """Return the elementwise minimum of two tensors that broadcast."""
    return _Extremum.apply(first, second, 1) if _has_gradient(first, second) else torch.minimum(first, second)


def maximum(first: Tensor, second: Tensor) -> Tensor:
    """Return the elementwise maximum of two tensors that broadcast."""
    return _Extremum.apply(first, second, -1) if _has_gradient(first, second) else torch.maximum(first, second)


class _BoxInBall(torch.autograd.Function):
    """`middle`, `half`: None for the ball alone; `fixed`: ends are center + factor * deviation for fixed factors."""

    @staticmethod
    def forward(
        ctx: Any, center: Tensor, deviation: Tensor, middle: Tensor | None, half: Tensor | None, fixed: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        last = center.dim() == 4 and not center.is_contiguous()
        size, layout = (3 * len(center), *center.shape[1:]), torch.channels_last if last else torch.contiguous_format
        values = torch.empty(size, dtype=center.dtype, device=center.device, memory_format=layout)
        inside, lower, upper = values.chunk(3)
        inside.copy_(center)
        torch.sub(center, deviation, out=lower)
        torch.add(center, deviation, out=upper)
        if middle is not None and half is not None:
            torch.maximum(lower, middle - half, out=lower)
            torch.minimum(upper, middle + half, out=upper)
        ctx.save_for_backward(deviation, values)
        ctx.boxed, ctx.fixed = middle is not None, fixed
        ctx.set_materialize_grads(False)
        return values, lower, upper

    @staticmethod
    def backward(
        ctx: Any, gradient: Tensor | None, of_lower: Tensor | None, of_upper: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        deviation, values = ctx.saved_tensors
        images = len(values) // 3
        center, ends = values[:images], values[images:]
        of_ends = None if gradient is None else gradient[images:]
        if of_lower is not None or of_upper is not None:
            alone = torch.cat([torch.zeros_like(center) if each is None else each for each in (of_lower, of_upper)])
            of_ends = alone if of_ends is None else alone.add_(of_ends)
        assert of_ends is not None  # autograd asks for gradients of something that was used
        both = of_ends.unflatten(0, (2, -1))
        of_inside = 0 if gradient is None else gradient[:images]
        if ctx.fixed:
            moved = both.mul(ends.unflatten(0, both.shape[:2]) - center).sum(dim=0)
            moved = moved.div_(deviation.clamp_min(torch.finfo(deviation.dtype).tiny))
            return torch.add(*both).add_(of_inside), sum_to_shape(moved, deviation.shape), None, None, None
        if not ctx.boxed:
            of_deviation = sum_to_shape(both[1] - both[0], deviation.shape)
            return torch.add(*both).add_(of_inside), of_deviation, None, None, None
        ball = torch.empty_like(ends)
        for end, sign in zip(ball.chunk(2), (-1, 1), strict=True):
            torch.add(center, deviation, alpha=sign, out=end)
        of_box = torch.ne(ends, ball, out=ball).mul_(of_ends)  # at a tie the ball gets the whole gradient
        (box_lower, box_upper), (lower, upper) = of_box.chunk(2), (of_ends - of_box).chunk(2)
        of_center, of_deviation = torch.add(lower, upper).add_(of_inside), sum_to_shape(upper - lower, deviation.shape)
        return of_center, of_deviation, box_lower + box_upper, box_upper - box_lower, None


def box_in_ball(
    center: Tensor, deviation: Tensor, middle: Tensor | None = None, half: Tensor | None = None, fixed: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Return lower and upper ends of [middle - half, middle + half] ∩ [center - deviation, center + deviation].

    Args:
        center, middle, half: (B, *shape); `middle` and `half` None for the second interval alone.
        deviation: broadcastable to that.
        fixed: gradients are those of ends at fixed shares of the deviation.

    Returns:
        Center and ends in one tensor, (3 B, *shape), so that what follows is applied to them at once; and the ends.
    """
    return _BoxInBall.apply(center, deviation, middle, half, fixed)


class _ClippedReLU(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(inputs: Tensor, threshold: Tensor) -> Tensor:
        return inputs.clamp(threshold.new_zeros(()), threshold)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1], output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        threshold, output = ctx.saved_tensors
        below = torch.ops.aten.threshold_backward(gradient, threshold - output, 0)  # the gradient below the threshold
        of_inputs = torch.ops.aten.threshold_backward(below, output, 0) if ctx.needs_input_grad[0] else None
        return of_inputs, sum_to_shape(gradient - below, threshold.shape) if ctx.needs_input_grad[1] else None


def clipped_relu(inputs: Tensor, threshold: Tensor) -> Tensor:
    """Return min(max(z, 0), threshold) elementwise (the paper's ReLU-theta).

    `inputs`: (B, *shape); `threshold`: broadcastable to it, every entry >= 0.
    """
    if torch.is_grad_enabled():
        return _ClippedReLU.apply(inputs, threshold)
    return inputs.clamp(threshold.new_zeros(()), threshold)


def split_pairs(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Split channels (dimension 1) into two halves: pair i is (channel i, channel i + C/2).

    `inputs`: (B, C, ...) -> two tensors (B, C/2, ...).
    """
    first, second = inputs.chunk(2, dim=1)
    return first, second


def max_min(inputs: Tensor) -> Tensor:
    """Return the larger of every pair in the first half of the channels, the smaller in the second.

    `inputs`: (B, C, ...) with C even -> (B, C, ...).
    """
    first, second = split_pairs(inputs)
    return torch.cat((maximum(first, second), minimum(first, second)), dim=1)


def clipped_max_min(inputs: Tensor, high: Tensor, low: Tensor) -> Tensor:
    """Return MaxMin with its larger half clipped from above, its smaller half from below.

    `inputs`: (B, C, ...) with C even; `high`, `low`: broadcastable to (B, C/2, ...).
    """
    first, second = split_pairs(inputs)
    larger = minimum(maximum(first, second), high)
    smaller = maximum(minimum(first, second), low)
    return torch.cat((larger, smaller), dim=1)


def _require_even_channels(shape: Sequence[int], layer: str) -> None:
    if not shape or shape[0] % 2:
        raise ValueError(f"{layer} pairs channels: expected an even number of them, got shape {tuple(shape)}.")


class ClippedReLU(nn.Module):
    """ReLU with one learnable upper threshold a neuron: min(max(z, 0), threshold).

    Args:
        shape: the input's shape without the batch dimension.
        threshold: initial threshold, >= 0. Kept >= 0 in training.

    The parameter `threshold` has shape (1, *shape).

    Raises:
        ValueError: if `threshold` is negative or NaN.
    """

    def __init__(self, shape: Sequence[int], threshold: float = 1.0) -> None:
        super().__init__()
        if not threshold >= 0:
            raise ValueError(f"Expected `threshold` >= 0, got {threshold}.")
        self.threshold = nn.Parameter(torch.full((1, *shape), float(threshold)))

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply `clipped_relu` to `inputs`, (B, *shape)."""
        return clipped_relu(inputs, self.threshold)


class Abs(nn.Module):
    """The absolute value, elementwise."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the absolute values of `inputs`, (B, ...)."""
        return inputs.abs()


class MaxMin(nn.Module):
    """Sort every pair of channels: larger values in the first half, smaller in the second.

    Raises:
        ValueError: in `forward`, if the number of channels is odd.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply `max_min` to `inputs`, (B, C, ...)."""
        _require_even_channels(inputs.shape[1:], "MaxMin")
        return max_min(inputs)


class ClippedMaxMin(nn.Module):
    """MaxMin whose larger outputs are clipped from above and smaller ones from below.

    Args:
        shape: the input's shape (C, ...) without the batch dimension, C even.
        max: initial upper threshold of the larger half.
        min: initial lower threshold of the smaller half.

    The parameters `max` and `min` have shape (1, C/2, ...).

    Raises:
        ValueError: if C is odd or a threshold is NaN.
    """

    def __init__(self, shape: Sequence[int], max: float = 1.0, min: float = -1.0) -> None:
        super().__init__()
        _require_even_channels(shape, "ClippedMaxMin")
        if math.isnan(max) or math.isnan(min):
            raise ValueError(f"Expected numbers for `max` and `min`, got {max} and {min}.")
        half = (1, shape[0] // 2, *shape[1:])
        self.max = nn.Parameter(torch.full(half, float(max)))
        self.min = nn.Parameter(torch.full(half, float(min)))

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply `clipped_max_min` to `inputs`, (B, C, ...)."""
        _require_even_channels(inputs.shape[1:], "ClippedMaxMin")
        return clipped_max_min(inputs, self.max, self.min)
