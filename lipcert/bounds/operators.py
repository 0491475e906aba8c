"""Affine layers as operators: apply, adjoint, entrywise absolute value and square.

An operator holds the weights of one affine layer together with the shape it acts on. Everything
the bounds need from a layer is here, matrix-free; nothing here knows of regions or norms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import singledispatch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipcert.bounds.errors import UnsupportedLayerError
from lipcert.nn import Normalize

Shape = tuple[int, ...]

SMALLEST_VARIANCE = 1e-30
"""Reciprocal roots of smaller variances are left to chance in float32."""

SCALING_OPERATIONS = 12
"""Rounded operations of an elementwise layer, at most: batch norm with an inexact reciprocal root."""


@dataclass(frozen=True)
class Operator:
    """An affine map z = A h + b from (B, *input_shape) to (B, *output_shape).

    Attributes:
        input_shape: of h, without the batch.
        output_shape: of z, without the batch.
        orthogonal_rows: the rows of A are mutually orthogonal (a scaling, a permutation, ...), so the norm of
            a row of W A follows from the norms of the rows of A alone.
        elementwise: every row of A has one entry.
        per_image: A differs from image to image.

    Raises:
        NotImplementedError: by every method that a subclass leaves out.
    """

    input_shape: Shape
    output_shape: Shape
    orthogonal_rows: bool = field(default=False, kw_only=True)
    elementwise: bool = field(default=False, kw_only=True)
    per_image: bool = field(default=False, kw_only=True)

    def apply(self, inputs: Tensor) -> Tensor:
        """Return A h, without the bias; `inputs`: h, (B, *input_shape).

        Raises:
            NotImplementedError: where a subclass leaves it out.
        """
        raise NotImplementedError

    def affine(self, inputs: Tensor) -> Tensor:
        """Return A h + b; `inputs`: h, (B, *input_shape).

        Raises:
            NotImplementedError: where a subclass leaves it out.
        """
        raise NotImplementedError

    def adjoint(self, outputs: Tensor) -> Tensor:
        """Return the transpose of A applied to `outputs`, (B, *output_shape).

        Raises:
            NotImplementedError: where a subclass leaves it out.
        """
        raise NotImplementedError

    def absolute(self) -> Operator:
        """Return the operator of |A|, entry by entry.

        Raises:
            NotImplementedError: where a subclass leaves it out.
        """
        raise NotImplementedError

    def squared(self) -> Operator:
        """Return the operator of A squared entry by entry.

        Raises:
            NotImplementedError: where a subclass leaves it out.
        """
        raise NotImplementedError

    def products(self) -> tuple[int, int]:
        """Return how many rounded operations make one entry of A h + b, and one entry of Aᵀ v, at most.

        Raises:
            NotImplementedError: where a subclass leaves it out.
        """
        raise NotImplementedError

    def magnitude(self, size: Tensor) -> Tensor:
        """Return |A| m + |b|, (B, *output_shape), to which the rounding of A h + b is relative; |h| <= `size`.

        Raises:
            NotImplementedError: where a subclass leaves it out.
        """
        raise NotImplementedError

    def intermediates(self, size: Tensor) -> Tensor:
        """Return 1 plus a bound on what is computed on the way, and on the factors it meets; |h| <= `size`."""
        return 1 + size

    def row_norms(self) -> Tensor | None:
        """Return an upper bound on the l2 norm of every row of A, shape (1, *output_shape), or None for ones.

        For a convolution it is the norm of the channel's whole kernel (eq. 23), at the border the sum of the
        absolute weights that reach the image where that is smaller: what an l-infinity box would give there.

        Raises:
            NotImplementedError: where a subclass leaves it out.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Dense(Operator):
    """Fully connected layer on the last of any number of dimensions; `weight`: (out, in)."""

    weight: Tensor
    bias: Tensor | None

    def apply(self, inputs: Tensor) -> Tensor:
        return F.linear(inputs, self.weight)

    def affine(self, inputs: Tensor) -> Tensor:
        return F.linear(inputs, self.weight, self.bias)

    def adjoint(self, outputs: Tensor) -> Tensor:
        return outputs @ self.weight

    def absolute(self) -> Operator:
        return replace(self, weight=self.weight.abs(), bias=None)

    def squared(self) -> Operator:
        return replace(self, weight=self.weight.square(), bias=None)

    def products(self) -> tuple[int, int]:
        return self.weight.shape[1] + 1, self.weight.shape[0]

    def magnitude(self, size: Tensor) -> Tensor:
        return F.linear(size, self.weight.abs(), None if self.bias is None else self.bias.abs())

    def row_norms(self) -> Tensor:
        return self.weight.norm(dim=1).expand(1, *self.output_shape)


@dataclass(frozen=True)
class Convolution(Operator):
    """Zero-padded 2-d convolution; `padding` is (left, right, top, bottom)."""

    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int

    def _convolve(self, inputs: Tensor, bias: Tensor | None) -> Tensor:
        left, right, top, bottom = self.padding
        if left == right and top == bottom:
            return F.conv2d(inputs, self.weight, bias, self.stride, (top, left), self.dilation, self.groups)
        padded = F.pad(inputs, self.padding)
        return F.conv2d(padded, self.weight, bias, self.stride, 0, self.dilation, self.groups)

    def apply(self, inputs: Tensor) -> Tensor:
        return self._convolve(inputs, None)

    def affine(self, inputs: Tensor) -> Tensor:
        return self._convolve(inputs, self.bias)

    def adjoint(self, outputs: Tensor) -> Tensor:
        left, right, top, bottom = self.padding
        symmetric = left == right and top == bottom
        height, width = self.input_shape[1:]
        padded = (height, width) if symmetric else (height + top + bottom, width + left + right)
        padding = (top, left) if symmetric else (0, 0)
        # The rows and columns at the far border that no window reaches.
        missing = [
            padded[i]
            - (
                (outputs.shape[2 + i] - 1) * self.stride[i]
                - 2 * padding[i]
                + self.dilation[i] * (self.weight.shape[2 + i] - 1)
                + 1
            )
            for i in (0, 1)
        ]
        result = F.conv_transpose2d(
            outputs, self.weight, None, self.stride, padding, missing, self.groups, self.dilation
        )
        return result if symmetric else result[..., top : top + height, left : left + width]

    def absolute(self) -> Operator:
        return replace(self, weight=self.weight.abs(), bias=None)

    def squared(self) -> Operator:
        return replace(self, weight=self.weight.square(), bias=None)

    def products(self) -> tuple[int, int]:
        outputs, inputs_in_group, height, width = self.weight.shape
        return inputs_in_group * height * width + 1, outputs // self.groups * height * width

    def magnitude(self, size: Tensor) -> Tensor:
        absolute = replace(self, weight=self.weight.abs(), bias=None if self.bias is None else self.bias.abs())
        return absolute.affine(size)

    def row_norms(self) -> Tensor:
        kernel_norms = self.weight.flatten(1).norm(dim=1).view(-1, 1, 1)
        absolute_sums = self.absolute().apply(self.weight.new_ones(1, *self.input_shape))
        return torch.minimum(kernel_norms, absolute_sums)


@dataclass(frozen=True)
class Scaling(Operator):
    """Elementwise scale and shift; both broadcastable to (1 or B, *shape).

    `shift_size`: sum of the absolute values that the shift is made of, where it is a sum; |shift| when None.
    `offset`: absolute value of what is subtracted first, `growth`: product of the factors above 1, where the layer is
    executed in several steps.
    """

    scale: Tensor
    shift: Tensor | None
    shift_size: Tensor | None = None
    offset: Tensor | None = None
    growth: Tensor | None = None

    def apply(self, inputs: Tensor) -> Tensor:
        return inputs * self.scale

    def affine(self, inputs: Tensor) -> Tensor:
        scaled = inputs * self.scale
        return scaled if self.shift is None else scaled + self.shift

    def adjoint(self, outputs: Tensor) -> Tensor:
        return outputs * self.scale

    def absolute(self) -> Operator:
        return replace(self, scale=self.scale.abs(), shift=None, shift_size=None)

    def squared(self) -> Operator:
        return replace(self, scale=self.scale.square(), shift=None, shift_size=None)

    def products(self) -> tuple[int, int]:
        return SCALING_OPERATIONS, 1

    def magnitude(self, size: Tensor) -> Tensor:
        scaled = size * self.scale.abs()
        if self.shift_size is not None:
            return scaled + self.shift_size
        return scaled if self.shift is None else scaled + self.shift.abs()

    def intermediates(self, size: Tensor) -> Tensor:
        shifted = 1 + size if self.offset is None else 1 + size + self.offset
        return shifted * (self.scale.abs().clamp_min(1) if self.growth is None else self.growth)

    def row_norms(self) -> Tensor:
        scale = self.scale.abs()
        return scale if scale.dim() > len(self.output_shape) else scale.expand(1, *self.output_shape)


def scaling(shape: Shape, scale: Tensor, shift: Tensor | None = None, per_image: bool = False) -> Scaling:
    """Return the operator h -> scale * h + shift on (B, *shape)."""
    return Scaling(shape, shape, scale, shift, orthogonal_rows=True, elementwise=True, per_image=per_image)


@dataclass(frozen=True)
class Reshape(Operator):
    """A change of shape (flatten): no arithmetic."""

    def apply(self, inputs: Tensor) -> Tensor:
        return inputs.reshape(-1, *self.output_shape)

    def affine(self, inputs: Tensor) -> Tensor:
        return self.apply(inputs)

    def adjoint(self, outputs: Tensor) -> Tensor:
        return outputs.reshape(-1, *self.input_shape)

    def absolute(self) -> Operator:
        return self

    def squared(self) -> Operator:
        return self

    def products(self) -> tuple[int, int]:
        return 0, 0

    def magnitude(self, size: Tensor) -> Tensor:
        return self.apply(size)

    def row_norms(self) -> None:
        return None


@dataclass(frozen=True)
class AveragePool(Operator):
    """Average pooling: `layer` pools; entries of A are 1 / divisor.

    `count`: number of pixels in each window, `divisor`: what their sum is divided by; (1, *output_shape).
    """

    layer: nn.AvgPool2d
    count: Tensor
    divisor: Tensor
    entries_squared: bool = False

    def apply(self, inputs: Tensor) -> Tensor:
        pooled = self.layer(inputs)
        return pooled / self.divisor.to(pooled) if self.entries_squared else pooled

    def affine(self, inputs: Tensor) -> Tensor:
        return self.apply(inputs)

    def adjoint(self, outputs: Tensor) -> Tensor:
        averaged = outputs / self.divisor.to(outputs) if self.entries_squared else outputs
        kernel, stride, padding = map(_pair, (self.layer.kernel_size, self.layer.stride, self.layer.padding))
        return torch.ops.aten.avg_pool2d_backward(
            averaged,
            outputs.new_empty(outputs.shape[0], *self.input_shape),  # its shape alone matters
            kernel,
            stride,
            padding,
            self.layer.ceil_mode,
            self.layer.count_include_pad,
            self.layer.divisor_override,
        )

    def absolute(self) -> Operator:
        return self

    def squared(self) -> Operator:
        return replace(self, entries_squared=True)

    def products(self) -> tuple[int, int]:
        window = int(self.count.max().item())
        return window + 1, window

    def magnitude(self, size: Tensor) -> Tensor:
        return self.apply(size)

    def intermediates(self, size: Tensor) -> Tensor:
        return 1 + size * self.count.max().to(size)

    def row_norms(self) -> Tensor:
        return self.count.sqrt() / self.divisor


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


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
    return Reshape(input_shape, (math.prod(input_shape),), orthogonal_rows=True, elementwise=True)


@operator.register
def _(layer: nn.Identity, input_shape: Shape) -> Operator:
    return Reshape(input_shape, input_shape, orthogonal_rows=True, elementwise=True)


@operator.register(nn.Dropout)
@operator.register(nn.Dropout1d)
@operator.register(nn.Dropout2d)
def _(layer: nn.Module, input_shape: Shape) -> Operator:
    if layer.training:
        raise UnsupportedLayerError("dropout is random in train mode; call model.eval() first.")
    return Reshape(input_shape, input_shape, orthogonal_rows=True, elementwise=True)


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
