"""Linear maps between two activations: chains of operators, sums of chains, masked on either side."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lipcert.graph.operators import Operator, Shape


@dataclass(frozen=True)
class LinearMap:
    """A matrix-free linear map M from (B, *input_shape) to (B, *output_shape).

    Attributes:
        input_shape, output_shape: without the batch.
        origin: an empty tensor that gives dtype and device.
        operators: M is their product, the first one applied first; none for the identity.
        rows, columns: 0/1 masks (B, *shape) of the outputs of `apply` and of `adjoint`; None for ones.
        flipped: this is the transpose of what `operators` say.
    """

    input_shape: Shape
    output_shape: Shape
    origin: Tensor
    operators: tuple[Operator, ...] = ()
    rows: Tensor | None = None
    columns: Tensor | None = None
    flipped: bool = False

    def apply(self, inputs: Tensor) -> Tensor:
        """Return M h for `inputs` h, (B, *input_shape)."""
        return _masked(self._backward(inputs) if self.flipped else self._forward(inputs), self.rows)

    def adjoint(self, outputs: Tensor) -> Tensor:
        """Return Mᵀ v for `outputs` v, (B, *output_shape)."""
        return _masked(self._forward(outputs) if self.flipped else self._backward(outputs), self.columns)

    def _forward(self, values: Tensor) -> Tensor:
        for operator in self.operators:
            values = operator.apply(values)
        return values

    def _backward(self, values: Tensor) -> Tensor:
        for operator in reversed(self.operators):
            values = operator.adjoint(values)
        return values

    @property
    def identity(self) -> bool:
        """Whether this is the identity."""
        return not self.operators and self.rows is None and self.columns is None

    @property
    def per_image(self) -> bool:
        """Whether the map differs from image to image."""
        masked = self.rows is not None or self.columns is not None
        return masked or any(operator.per_image for operator in self.operators)

    @property
    def images(self) -> int:
        """Number of images that the map differs between, 1 for a map that is the same for all."""
        masks = [mask.shape[0] for mask in (self.rows, self.columns) if mask is not None]
        return max([1, *masks, *(operator.images for operator in self.operators)])

    @property
    def roundings(self) -> tuple[int, int]:
        """How many rounded operations make one entry of M h and one of Mᵀ v, at most."""
        counts = [operator.products() for operator in self.operators]
        forward, backward = sum(each[0] for each in counts), sum(each[1] for each in counts)
        return (backward, forward) if self.flipped else (forward, backward)

    def after(self, operator: Operator) -> LinearMap:
        """Return operator ∘ self."""
        return replace(self, output_shape=operator.output_shape, operators=(*self.operators, operator))

    def plus(self, other: LinearMap) -> LinearMap:
        """Return self + other, both on the same input."""
        total = Total(self.input_shape, self.output_shape, first=self, second=other)
        return replace(self, operators=(replace(total, per_image=self.per_image or other.per_image),))

    def restricted(self, rows: Tensor | None, columns: Tensor | None) -> LinearMap:
        """Return diag(rows) ∘ self ∘ diag(columns) as a map between the subspaces that the masks leave.

        `rows`: (B, *output_shape), `columns`: (B, *input_shape), entries 0 or 1; None stands for ones. Only outputs
        are masked: inputs of `apply` and `adjoint` must already lie inside.
        """
        return replace(self, rows=rows, columns=columns)

    def transpose(self) -> LinearMap:
        """Return the adjoint as a map of its own."""
        return replace(
            self,
            input_shape=self.output_shape,
            output_shape=self.input_shape,
            rows=self.columns,
            columns=self.rows,
            flipped=not self.flipped,
        )

    def absolute(self) -> LinearMap:
        """Return the map of the products of entrywise absolute values, which no entry of this one exceeds."""
        return replace(self, operators=tuple(operator.absolute() for operator in self.operators))

    def matrix(self) -> Tensor:
        """Return the dense matrix, (outputs, inputs), of an unmasked map that is the same for all images.

        For maps with few, flat outputs, a layer onto classes for one.
        """
        (outputs,) = self.output_shape
        units = torch.eye(outputs, dtype=self.origin.dtype, device=self.origin.device)
        return self.adjoint(units).flatten(1)


def identity_map(values: Tensor) -> LinearMap:
    """Return the identity on tensors like `values`, (B, *shape)."""
    shape = tuple(values.shape[1:])
    return LinearMap(shape, shape, values.new_empty(0))


@dataclass(frozen=True)
class Total(Operator):
    """The sum of two linear maps on the same input: what a residual sum makes of them."""

    first: LinearMap
    second: LinearMap

    def apply(self, inputs: Tensor) -> Tensor:
        return self.first.apply(inputs) + self.second.apply(inputs)

    def affine(self, inputs: Tensor) -> Tensor:
        return self.apply(inputs)

    def adjoint(self, outputs: Tensor) -> Tensor:
        return self.first.adjoint(outputs) + self.second.adjoint(outputs)

    def absolute(self) -> Operator:
        return replace(self, first=self.first.absolute(), second=self.second.absolute())

    def products(self) -> tuple[int, int]:
        pairs = zip(self.first.roundings, self.second.roundings, strict=True)
        forward, backward = (max(pair) + 1 for pair in pairs)
        return forward, backward

    @property
    def images(self) -> int:
        return max(self.first.images, self.second.images)


@torch.no_grad()
def largest_absolute(linear_map: LinearMap) -> Tensor:
    """Return an upper bound on the norm of the map's entrywise absolute value, (1,) or (B,): it needs no iteration.

    The root of the largest row sum times the largest column sum.
    """
    absolute, images = linear_map.absolute(), linear_map.images
    rows = absolute.apply(linear_map.origin.new_ones(images, *linear_map.input_shape)).flatten(1).amax(dim=1)
    columns = absolute.adjoint(linear_map.origin.new_ones(images, *linear_map.output_shape)).flatten(1).amax(dim=1)
    return rows.sqrt() * columns.sqrt()


def _masked(values: Tensor, mask: Tensor | None) -> Tensor:
    return values if mask is None else values * mask
