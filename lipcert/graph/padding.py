"""Padding: with zeros, and with pixels of the image (circular, reflect, replicate), alone or before a convolution."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from lipcert.graph.operators import Convolution, Selection, Shape

Sizes = tuple[int, int, int, int]
"""Pixels added at the left, right, top and bottom; with zeros alone they may be negative, which cuts off."""


@lru_cache(maxsize=256)
def _places(size: int, before: int, after: int, mode: str) -> Tensor:
    """Return which of `size` pixels in a row each pixel of the padded row is, (before + size + after,)."""
    row = torch.arange(size, dtype=torch.float64)[None, None]
    return F.pad(row, (before, after), mode)[0, 0].long()


@dataclass(frozen=True)
class Padding:
    """Pads (B, C, height, width); `mode`: as `torch.nn.functional.pad` calls it, `constant` for zeros."""

    sizes: Sizes
    mode: str

    def __call__(self, inputs: Tensor) -> Tensor:
        return F.pad(inputs, self.sizes, self.mode)

    def places(self, shape: Shape) -> tuple[Tensor, Tensor]:
        """Return which row of images (C, H, W) each padded row is, and which column each padded column."""
        left, right, top, bottom = self.sizes
        return _places(shape[1], top, bottom, self.mode), _places(shape[2], left, right, self.mode)

    def copies(self, shape: Shape) -> int:
        """Return how often a pixel of (C, H, W) is in the padded image, at most."""
        if self.mode == "constant":
            return 1
        rows, columns = (int(torch.bincount(each).max()) for each in self.places(shape))
        return rows * columns


@dataclass(frozen=True)
class Unpadding:
    """The transpose of a padding of (B, *shape): adds up what the copies of each pixel are given."""

    padding: Padding
    shape: Shape

    def __call__(self, outputs: Tensor) -> Tensor:
        if self.padding.mode == "constant":
            left, right, top, bottom = self.padding.sizes
            return F.pad(outputs, (-left, -right, -top, -bottom))
        rows, columns = (each.to(outputs.device) for each in self.padding.places(self.shape))
        folded = outputs.new_zeros(*outputs.shape[:2], self.shape[1], outputs.shape[3]).index_add(2, rows, outputs)
        return outputs.new_zeros(len(outputs), *self.shape).index_add(3, columns, folded)


def padded(shape: Shape, padding: Padding) -> Selection:
    """Return the operator of a padding of (B, *shape)."""
    left, right, top, bottom = padding.sizes
    larger = (shape[0], shape[1] + top + bottom, shape[2] + left + right)
    copies = padding.copies(shape)
    single, back = copies <= 1, Unpadding(padding, shape)
    return Selection(shape, larger, padding, back, copies, orthogonal_rows=single, elementwise=single)


@dataclass(frozen=True)
class PaddedConvolution(Convolution):
    """A convolution of images that are padded with their own pixels; `padding` as of `Convolution`.

    `mode`: of the padding. A pixel that a row meets more than once has several weights there: |A| is bounded by the
    sum of their absolute values, A squared by that of their squares times `repeats`, how many there are at most,
    (1, 1, *output size), where the operator is `spread`.
    """

    mode: str
    repeats: Tensor
    spread: bool = False

    @property
    def before(self) -> Padding:
        """What is done before the convolution."""
        return Padding(self.padding, self.mode)

    def _convolve(self, inputs: Tensor, bias: Tensor | None) -> Tensor:
        padded = self.before(inputs)
        found = F.conv2d(padded, self.weight, bias, self.stride, 0, self.dilation, self.groups)
        return found * self.repeats.to(found) if self.spread else found

    def adjoint(self, outputs: Tensor) -> Tensor:
        left, right, top, bottom = self.padding
        channels, height, width = self.input_shape
        shape = (channels, height + top + bottom, width + left + right)
        inside = Convolution(
            shape, self.output_shape, self.weight, None, self.stride, (0, 0, 0, 0), self.dilation, self.groups
        )
        outputs = outputs * self.repeats.to(outputs) if self.spread else outputs
        return Unpadding(self.before, self.input_shape)(inside.adjoint(outputs))

    def squared(self) -> PaddedConvolution:
        return replace(self, weight=self.weight.square(), bias=None, spread=True)

    def products(self) -> tuple[int, int]:
        forward, backward = super().products()
        return forward, (backward + 1) * self.before.copies(self.input_shape)

    def row_norms(self) -> Tensor:
        kernel_norms = self.weight.flatten(1).norm(dim=1).view(-1, 1, 1)
        absolute_sums = self.absolute().apply(self.weight.new_ones(1, *self.input_shape))
        return torch.minimum(kernel_norms * self.repeats.to(kernel_norms).sqrt(), absolute_sums)


def with_padding(plain: Convolution, mode: str) -> PaddedConvolution:
    """Return a convolution whose padding is of another mode than zeros."""
    before = Padding(plain.padding, mode)
    rows, columns = (
        _repeats(places, plain.output_shape[1 + axis], plain.weight.shape[2 + axis], plain.stride[axis], dilation)
        for axis, (places, dilation) in enumerate(zip(before.places(plain.input_shape), plain.dilation, strict=True))
    )
    fields = (plain.input_shape, plain.output_shape, plain.weight, plain.bias, plain.stride, plain.padding)
    repeats = (rows[:, None] * columns)[None, None].double()
    return PaddedConvolution(*fields, plain.dilation, plain.groups, mode, repeats)


def _repeats(places: Tensor, outputs: int, kernel: int, stride: int, dilation: int) -> Tensor:
    """Return how often each window meets a pixel of the row, at most, (outputs,)."""
    windows = places[stride * torch.arange(outputs)[:, None] + dilation * torch.arange(kernel)]
    return (windows[:, :, None] == windows[:, None]).sum(dim=2).amax(dim=1)
