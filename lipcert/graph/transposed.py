"""Transposed convolutions."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from lipcert.graph.compile import operator, pair
from lipcert.graph.operators import Operator, Shape, Weighted
from lipcert.nn import UnsupportedLayerError

SMALLEST_SQUARE = 1e-30
"""Squared row norms are raised to this, so that their square root has a finite gradient."""


@dataclass(frozen=True)
class TransposedConvolution(Weighted):
    """2-d transposed convolution; `weight`: (in, out / groups, height, width)."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    output_padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    def _transposed(self, inputs: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv_transpose2d(
            inputs, self.weight, bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )

    def apply(self, inputs: Tensor) -> Tensor:
        return self._transposed(inputs, None)

    def affine(self, inputs: Tensor) -> Tensor:
        return self._transposed(inputs, self.bias)

    def adjoint(self, outputs: Tensor) -> Tensor:
        found = F.conv2d(outputs, self.weight, None, self.stride, self.padding, self.dilation, self.groups)
        return found[..., : self.input_shape[1], : self.input_shape[2]]

    def products(self) -> tuple[int, int]:
        inputs, outputs_in_group, height, width = self.weight.shape
        return inputs // self.groups * height * width + 1, outputs_in_group * height * width

    def row_norms(self) -> Tensor:
        squares = self.squared().apply(self.weight.new_ones(1, *self.input_shape))
        return squares.clamp_min(SMALLEST_SQUARE).sqrt()


@operator.register
def _(layer: nn.ConvTranspose2d, input_shape: Shape) -> Operator:
    if len(input_shape) != 3 or input_shape[0] != layer.in_channels:
        raise UnsupportedLayerError(
            f"this ConvTranspose2d takes inputs (B, {layer.in_channels}, height, width), got {('B', *input_shape)}."
        )
    assert not isinstance(layer.padding, str)
    stride, padding, dilation = pair(layer.stride), pair(layer.padding), pair(layer.dilation)
    added = pair(layer.output_padding)
    sizes = [
        (input_shape[1 + i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (layer.kernel_size[i] - 1) + added[i] + 1
        for i in (0, 1)
    ]
    shape = (layer.out_channels, *sizes)
    return TransposedConvolution(
        input_shape, shape, layer.weight, layer.bias, stride, padding, added, dilation, layer.groups
    )
