"""The table of affine layers: which operator each supported layer is.

`register_affine` adds a row, which serves forward bounds, backward bounds and training alike.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import singledispatch
from typing import Any

import torch
from torch import nn

from lipcert.graph.errors import UnsupportedLayerError
from lipcert.graph.operators import Convolution, Dense, Operator, Shape, reshape
from lipcert.graph.pooling import AveragePool
from lipcert.graph.scaling import scaling
from lipcert.nn import Normalize

SMALLEST_VARIANCE = 1e-30
"""Reciprocal roots of smaller variances are left to chance in float32."""

LARGEST_VARIANCE = 1e38
"""The sum of a larger one with `eps` may be infinite in float32."""


@singledispatch
def operator(layer: nn.Module, input_shape: Shape) -> Operator:
    """Return the operator of an affine layer on inputs of `input_shape` (without the batch).

    Raises:
        UnsupportedLayerError: for a layer that is not affine, or not supported in its mode.
    """
    raise UnsupportedLayerError(f"{type(layer).__name__} is not a supported affine layer.")


@operator.register
def _(layer: nn.Linear, input_shape: Shape) -> Operator:
    if input_shape[-1] != layer.in_features:
        raise UnsupportedLayerError(
            f"this Linear takes {layer.in_features} inputs, but images of this shape give it {input_shape[-1]}."
        )
    return Dense(input_shape, (*input_shape[:-1], layer.out_features), layer.weight, layer.bias)


@operator.register
def _(layer: nn.Conv2d, input_shape: Shape) -> Operator:
    if len(input_shape) != 3 or input_shape[0] != layer.in_channels:
        given = ", ".join(map(str, ("B", *input_shape)))
        raise UnsupportedLayerError(f"this Conv2d takes inputs (B, {layer.in_channels}, height, width), got ({given}).")
    if layer.padding_mode != "zeros":
        raise UnsupportedLayerError(f"Conv2d with padding_mode={layer.padding_mode!r} is not supported, only 'zeros'.")
    kernel, stride, dilation = _pair(layer.kernel_size), _pair(layer.stride), _pair(layer.dilation)
    if layer.padding == "same":
        totals = [dilation[i] * (kernel[i] - 1) for i in (0, 1)]
        top, left = totals[0] // 2, totals[1] // 2
        padding = (left, totals[1] - left, top, totals[0] - top)
    else:
        vertical, horizontal = (0, 0) if isinstance(layer.padding, str) else _pair(layer.padding)
        padding = (horizontal, horizontal, vertical, vertical)
    sizes = [
        (input_shape[1 + i] + padded - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i, padded in enumerate((padding[2] + padding[3], padding[0] + padding[1]))
    ]
    shape = (layer.out_channels, *sizes)
    return Convolution(input_shape, shape, layer.weight, layer.bias, stride, padding, dilation, layer.groups)


@operator.register
def _(layer: nn.Flatten, input_shape: Shape) -> Operator:
    if layer.start_dim != 1 or layer.end_dim not in (-1, len(input_shape)):
        raise UnsupportedLayerError("Flatten is supported from dimension 1 to the last, nothing else.")
    return reshape(input_shape, (math.prod(input_shape),))


@operator.register
def _(layer: nn.Identity, input_shape: Shape) -> Operator:
    return reshape(input_shape, input_shape)


@operator.register(nn.Dropout)
@operator.register(nn.Dropout1d)
@operator.register(nn.Dropout2d)
def _(layer: nn.Module, input_shape: Shape) -> Operator:
    if layer.training:
        raise UnsupportedLayerError("dropout is random in train mode; call model.eval() first.")
    return reshape(input_shape, input_shape)


@operator.register
def _(layer: Normalize, input_shape: Shape) -> Operator:
    per_channel = (-1, *(1 for _ in input_shape[1:]))
    scale = (1 / layer.std).view(per_channel)
    mean = layer.mean.view(per_channel)
    return replace(scaling(input_shape, scale, -mean * scale), offset=mean.abs())


@operator.register(nn.BatchNorm1d)
@operator.register(nn.BatchNorm2d)
def _(layer: nn.BatchNorm1d | nn.BatchNorm2d, input_shape: Shape) -> Operator:
    if layer.training or layer.running_mean is None or layer.running_var is None:
        raise UnsupportedLayerError(
            "batch norm is affine in eval mode with running statistics only; call model.eval() first."
        )
    variance = layer.running_var + layer.eps
    if not bool((variance > SMALLEST_VARIANCE).all() and (layer.running_var >= 0).all()):
        raise UnsupportedLayerError(
            f"batch norm needs variances above {SMALLEST_VARIANCE}, got {float(variance.min())}."
        )
    if not bool((variance <= LARGEST_VARIANCE).all()):
        raise UnsupportedLayerError(
            f"batch norm needs variances whose sum with eps is at most {LARGEST_VARIANCE}, got {float(variance.max())}."
        )
    per_channel = (-1, *(1 for _ in input_shape[1:]))
    scale = variance.rsqrt()
    scale = scale if layer.weight is None else scale * layer.weight
    shift = -layer.running_mean * scale
    shift_size = shift.abs()
    if layer.bias is not None:
        shift, shift_size = shift + layer.bias, shift_size + layer.bias.abs()
    root = variance.rsqrt().clamp_min(1)
    return replace(
        scaling(input_shape, scale.view(per_channel), shift.view(per_channel)),
        shift_size=shift_size.view(per_channel),
        offset=layer.running_mean.abs().view(per_channel),
        growth=(root if layer.weight is None else root * layer.weight.abs().clamp_min(1)).view(per_channel),
    )


@operator.register
def _(layer: nn.AvgPool2d, input_shape: Shape) -> Operator:
    kernel, stride = _pair(layer.kernel_size), _pair(layer.stride)
    summing = nn.AvgPool2d(kernel, stride, _pair(layer.padding), layer.ceil_mode, divisor_override=1)
    if layer.divisor_override is not None and layer.divisor_override <= 0:
        raise UnsupportedLayerError(f"AvgPool2d with divisor_override={layer.divisor_override} is not an average.")
    ones = torch.ones(1, *input_shape, dtype=torch.float64)
    count = summing(ones)
    divisor = count / layer(ones)
    disjoint = stride[0] >= kernel[0] and stride[1] >= kernel[1]
    return AveragePool(input_shape, tuple(count.shape[1:]), layer, count, divisor, orthogonal_rows=disjoint)


def is_affine(kind: type[nn.Module]) -> bool:
    """Return whether layers of this class have an operator."""
    return operator.dispatch(kind) is not operator.dispatch(object)


def register_affine(kind: type[nn.Module], make: Callable[[Any, Shape], Operator]) -> None:
    """Add an affine layer of your own to the layers that have bounds: forward, backward and in training.

    Args:
        kind: the layer's class.
        make: takes the layer and its input's shape without the batch, returns its operator. Everything that is
            certified rests on what the operator says; docs/extending/layer.md shows one, and how to test it.
    """
    operator.register(kind, make)


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    """Return a size as (height, width)."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])
