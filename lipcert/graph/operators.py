"""Affine operators, matrix-free: apply, adjoint, entrywise absolute value and square, row norms, rounding.

An operator holds the weights of one affine layer together with the shape it acts on. It is all that bounds need to
know of the layer (`lipcert.graph.layers` says which layer is which operator).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shape = tuple[int, ...]

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
        per_image: A differs from image to image; `images`: how many it differs between, else 1.

    Raises:
        NotImplementedError: by every method that a subclass leaves out.
    """

    input_shape: Shape
    output_shape: Shape
    orthogonal_rows: bool = field(default=False, kw_only=True)
    elementwise: bool = field(default=False, kw_only=True)
    per_image: bool = field(default=False, kw_only=True)
    images: int = field(default=1, kw_only=True)

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

    @property
    def mixes(self) -> bool:
        """Whether rows of A have several entries, so that its box costs products of its own."""
        return not self.elementwise and self.products()[0] > 0

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
    images = scale.shape[0] if per_image else 1
    return Scaling(
        shape, shape, scale, shift, orthogonal_rows=True, elementwise=True, per_image=per_image, images=images
    )


@dataclass(frozen=True)
class Permutation(Operator):
    """A layer that moves entries without arithmetic (flatten, pixel unshuffle, identity).

    `move`: the layer's function, (B, *input_shape) to (B, *output_shape); `move_back`: its inverse.
    """

    move: Callable[[Tensor], Tensor]
    move_back: Callable[[Tensor], Tensor]
    orthogonal_rows: bool = field(default=True, kw_only=True)
    elementwise: bool = field(default=True, kw_only=True)

    def apply(self, inputs: Tensor) -> Tensor:
        return self.move(inputs)

    def affine(self, inputs: Tensor) -> Tensor:
        return self.move(inputs)

    def adjoint(self, outputs: Tensor) -> Tensor:
        return self.move_back(outputs)

    def absolute(self) -> Operator:
        return self

    def squared(self) -> Operator:
        return self

    def products(self) -> tuple[int, int]:
        return 0, 0

    def magnitude(self, size: Tensor) -> Tensor:
        return self.move(size)

    def row_norms(self) -> None:
        return None


def reshape(input_shape: Shape, output_shape: Shape) -> Permutation:
    """Return the operator of a change of shape."""
    return Permutation(input_shape, output_shape, _Reshaped(output_shape), _Reshaped(input_shape))


@dataclass(frozen=True)
class _Reshaped:
    """Reshapes to (B, *shape)."""

    shape: Shape

    def __call__(self, values: Tensor) -> Tensor:
        return values.reshape(-1, *self.shape)


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
        sizes = (self.layer.kernel_size, self.layer.stride, self.layer.padding)
        kernel, stride, padding = ((size, size) if isinstance(size, int) else size for size in sizes)
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
