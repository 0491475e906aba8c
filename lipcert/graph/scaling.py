"""Elementwise affine operators: normalisation, batch norm, masks."""

from dataclasses import dataclass, replace

from torch import Tensor

from lipcert.graph.operators import Operator, Shape

SCALING_OPERATIONS = 12
"""Rounded operations of an elementwise layer, at most: batch norm with an inexact reciprocal root."""


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
