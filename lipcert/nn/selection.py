"""Elementwise minimum and maximum whose gradients cost a multiplication instead of a selection.

Values are those of `torch.minimum` and `torch.maximum`, NaN included; at a tie the whole gradient goes to the
second argument. Selections (`where`, `masked_fill`) are an order of magnitude slower than arithmetic on CPUs.
"""

from typing import Any

import torch
from torch import Tensor


def sum_to_shape(values: Tensor, shape: torch.Size) -> Tensor:
    """Sum broadcast dimensions away, as autograd does; fast over the batch of channels-last tensors."""
    if values.shape == shape:
        return values
    over_batch_only = values.dim() == 4 and len(shape) == 4 and shape[0] == 1 and values.shape[1:] == shape[1:]
    if over_batch_only and values.is_contiguous(memory_format=torch.channels_last):
        batch, channels, height, width = values.shape
        flat = values.permute(0, 2, 3, 1).reshape(batch, -1)
        return (flat.new_ones(batch) @ flat).view(1, height, width, channels).permute(0, 3, 1, 2)
    return values.sum_to_size(shape)


class _Extremum(torch.autograd.Function):
    """`sign` +1 for the minimum, -1 for the maximum."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, sign: int) -> Tensor:
        ctx.save_for_backward(first, second)
        ctx.sign = sign
        return torch.minimum(first, second) if sign > 0 else torch.maximum(first, second)

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


def minimum(first: Tensor, second: Tensor) -> Tensor:
    """Return the elementwise minimum of two tensors that broadcast."""
    return _Extremum.apply(first, second, 1)


def maximum(first: Tensor, second: Tensor) -> Tensor:
    """Return the elementwise maximum of two tensors that broadcast."""
    return _Extremum.apply(first, second, -1)


class _ShareOfBall(torch.autograd.Function):
    """`end` as center + factor * deviation, with the factor held constant."""

    @staticmethod
    def forward(ctx: Any, center: Tensor, deviation: Tensor, end: Tensor) -> Tensor:
        ctx.save_for_backward(center, deviation, end)
        return end

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        center, deviation, end = ctx.saved_tensors
        factor = (end - center) / deviation.clamp_min(torch.finfo(deviation.dtype).tiny)
        return gradient, sum_to_shape(gradient * factor, deviation.shape), None


def share_of_ball(center: Tensor, deviation: Tensor, end: Tensor) -> Tensor:
    """Return `end`, which lies within `deviation` of `center`, with the gradient of a fixed share of the deviation."""
    return _ShareOfBall.apply(center, deviation, end)
