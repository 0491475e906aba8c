"""Elementwise affine operators, and the layers that are: normalisation, torchvision's too, and batch norm."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lipcert.graph.compile import OPTIONAL, operator
from lipcert.graph.operators import Operator, Shape
from lipcert.nn import ElementwiseAffine, Normalize, UnsupportedLayerError

SCALING_OPERATIONS = 12
"""Rounded operations of an elementwise layer, at most: batch norm with an inexact reciprocal root."""

SMALLEST_VARIANCE = 1e-30
"""Reciprocal roots of smaller variances are left to chance in float32."""

LARGEST_VARIANCE = 1e38
"""The sum of a larger one with `eps` may be infinite in float32."""


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


@dataclass(frozen=True)
class Constant(Scaling):
    """A scaling by numbers that no parameter or buffer holds, in float64: they take the precision of what they meet."""

    def _like(self, values: Tensor) -> Scaling:
        shift, offset = (None if each is None else each.to(values) for each in (self.shift, self.offset))
        return Scaling(self.input_shape, self.output_shape, self.scale.to(values), shift, offset=offset)

    def apply(self, inputs: Tensor) -> Tensor:
        return self._like(inputs).apply(inputs)

    def affine(self, inputs: Tensor) -> Tensor:
        return self._like(inputs).affine(inputs)

    def adjoint(self, outputs: Tensor) -> Tensor:
        return self._like(outputs).adjoint(outputs)

    def magnitude(self, size: Tensor) -> Tensor:
        return self._like(size).magnitude(size)

    def intermediates(self, size: Tensor) -> Tensor:
        return self._like(size).intermediates(size)


def scaling(shape: Shape, scale: Tensor, shift: Tensor | None = None, per_image: bool = False) -> Scaling:
    """Return the operator h -> scale * h + shift on (B, *shape)."""
    images = scale.shape[0] if per_image else 1
    return Scaling(
        shape, shape, scale, shift, orthogonal_rows=True, elementwise=True, per_image=per_image, images=images
    )


@operator.register
def _(layer: Normalize, input_shape: Shape) -> Operator:
    per_channel = (-1, *(1 for _ in input_shape[1:]))
    scale = (1 / layer.std).view(per_channel)
    mean = layer.mean.view(per_channel)
    return replace(scaling(input_shape, scale, -mean * scale), offset=mean.abs())


def _transform(layer: nn.Module, input_shape: Shape) -> Operator:
    if layer.inplace:
        raise UnsupportedLayerError("torchvision's Normalize with inplace=True overwrites its input; build it without.")
    means, stds = (torch.tensor(each, dtype=torch.float64).flatten() for each in (layer.mean, layer.std))
    if len(input_shape) != 3 or not len(means) == len(stds) == input_shape[0]:
        raise UnsupportedLayerError(
            f"torchvision's Normalize with {len(means)} means and {len(stds)} stds does not fit images {input_shape}."
        )
    if not bool(means.isfinite().all() and stds.isfinite().all() and (stds > 0).all()):
        raise UnsupportedLayerError(f"torchvision's Normalize needs finite means and stds > 0, got {layer.std}.")
    scale, mean = (1 / stds).view(-1, 1, 1), means.view(-1, 1, 1)
    return Constant(
        input_shape, input_shape, scale, -mean * scale, offset=mean.abs(), orthogonal_rows=True, elementwise=True
    )


OPTIONAL["torchvision.transforms.transforms", "Normalize"] = _transform
OPTIONAL["torchvision.transforms.v2._misc", "Normalize"] = _transform


@operator.register
def _(layer: ElementwiseAffine, input_shape: Shape) -> Operator:
    scale, shift = (None if each is None else each.expand(1, *input_shape) for each in (layer.scale, layer.shift))
    if scale is None:
        scale = torch.ones_like(shift)  # type: ignore[arg-type]  # one of them is there
    return replace(scaling(input_shape, scale, shift), offset=None if shift is None else shift.abs())


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
