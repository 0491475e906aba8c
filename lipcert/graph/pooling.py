"""Operators that average over windows."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lipcert.graph.operators import Operator


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
