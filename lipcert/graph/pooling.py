"""Average pooling, over windows of one size or adaptive: its operators, and which layers are one."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lipcert.graph.compile import operator, pair
from lipcert.graph.operators import Operator, Shape
from lipcert.nn import UnsupportedLayerError


@dataclass(frozen=True)
class AveragePool(Operator):
    """Average pooling: `layer` pools; entries of A are 1 / divisor.

    `count`: number of pixels in each window, `divisor`: what their sum is divided by; (1, *output_shape).
    """

    layer: nn.AvgPool2d | nn.AdaptiveAvgPool2d
    count: Tensor
    divisor: Tensor
    entries_squared: bool = False

    def apply(self, inputs: Tensor) -> Tensor:
        pooled = self.layer(inputs)
        return pooled / self.divisor.to(pooled) if self.entries_squared else pooled

    def affine(self, inputs: Tensor) -> Tensor:
        return self.apply(inputs)

    def adjoint(self, outputs: Tensor) -> Tensor:
        assert isinstance(self.layer, nn.AvgPool2d)
        averaged = outputs / self.divisor.to(outputs) if self.entries_squared else outputs
        kernel, stride, padding = map(pair, (self.layer.kernel_size, self.layer.stride, self.layer.padding))
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


@dataclass(frozen=True)
class AdaptivePool(AveragePool):
    """Average pooling to so many windows; `overlap`: how many of them a pixel is in, at most."""

    overlap: int = 1

    def adjoint(self, outputs: Tensor) -> Tensor:
        averaged = outputs / self.divisor.to(outputs) if self.entries_squared else outputs
        like = outputs.new_empty(outputs.shape[0], *self.input_shape)  # its shape alone matters
        return torch.ops.aten._adaptive_avg_pool2d_backward(averaged, like)

    def products(self) -> tuple[int, int]:
        return super().products()[0], self.overlap + 1


@operator.register
def _(layer: nn.AvgPool2d, input_shape: Shape) -> Operator:
    kernel, stride = pair(layer.kernel_size), pair(layer.stride)
    summing = nn.AvgPool2d(kernel, stride, pair(layer.padding), layer.ceil_mode, divisor_override=1)
    if layer.divisor_override is not None and layer.divisor_override <= 0:
        raise UnsupportedLayerError(f"AvgPool2d with divisor_override={layer.divisor_override} is not an average.")
    ones = torch.ones(1, *input_shape, dtype=torch.float64)
    count = summing(ones)
    divisor = count / layer(ones)
    disjoint = stride[0] >= kernel[0] and stride[1] >= kernel[1]
    return AveragePool(input_shape, tuple(count.shape[1:]), layer, count, divisor, orthogonal_rows=disjoint)


@operator.register
def _(layer: nn.AdaptiveAvgPool2d, input_shape: Shape) -> Operator:
    if len(input_shape) != 3:
        raise UnsupportedLayerError(f"an AdaptiveAvgPool2d takes images (C, height, width), got {input_shape}.")
    wanted = layer.output_size if isinstance(layer.output_size, tuple) else (layer.output_size, layer.output_size)
    pairs = zip(input_shape[1:], wanted, strict=True)
    rows, columns = (_windows(size, size if number is None else number) for size, number in pairs)
    count = (rows.sum(dim=1)[:, None] * columns.sum(dim=1)).expand(1, input_shape[0], -1, -1)
    overlap = int(rows.sum(dim=0).max() * columns.sum(dim=0).max())
    shape = tuple(count.shape[1:])
    return AdaptivePool(input_shape, shape, layer, count, count, overlap=overlap, orthogonal_rows=overlap <= 1)


def _windows(size: int, number: int) -> Tensor:
    """Return 1 where one of `number` windows holds one of `size` pixels in a row, (number, size)."""
    window, pixel = torch.arange(number)[:, None], torch.arange(size)
    inside = (pixel >= window * size // number) & (pixel < -(-(window + 1) * size // number))
    return inside.double()
