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
        per_image: the map differs from image to image; `images`: how many it differs between, 1 for one of all.
        roundings: how many rounded operations make one entry of M h and one of Mᵀ v, at most.
    """

    input_shape: Shape
    output_shape: Shape
    origin: Tensor
    operators: tuple[Operator, ...] = ()
    rows: Tensor | None = None
    columns: Tensor | None = None
    flipped: bool = False
    per_image: bool = False
    images: int = 1
    roundings: tuple[int, int] = (0, 0)

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

    def after(self, operator: Operator) -> LinearMap:
        """Return operator ∘ self."""
        forward, backward = operator.products()
        return replace(
            self,
            output_shape=operator.output_shape,
            operators=(*self.operators, operator),
            per_image=self.per_image or operator.per_image,
            images=max(self.images, operator.images),
            roundings=(self.roundings[0] + forward, self.roundings[1] + backward),
        )

    def plus(self, other: LinearMap) -> LinearMap:
        """Return self + other, both on the same input."""
        either, images = self.per_image or other.per_image, max(self.images, other.images)
        total = Total(self.input_shape, self.output_shape, self, other, per_image=either, images=images)
        return LinearMap(self.input_shape, self.input_shape, self.origin).after(total)

    def restricted(self, rows: Tensor | None, columns: Tensor | None) -> LinearMap:
        """Return diag(rows) ∘ self ∘ diag(columns) as a map between the subspaces that the masks leave.

        `rows`: (B, *output_shape), `columns`: (B, *input_shape), entries 0 or 1; None stands for ones. Only outputs
        are masked: inputs of `apply` and `adjoint` must already lie inside.
        """
        masks = [mask for mask in (rows, columns) if mask is not None]
        images = max([self.images, *(mask.shape[0] for mask in masks)])
        return replace(self, rows=rows, columns=columns, per_image=self.per_image or bool(masks), images=images)

    def transpose(self) -> LinearMap:
        """Return the adjoint as a map of its own."""
        return replace(
            self,
            input_shape=self.output_shape,
            output_shape=self.input_shape,
            rows=self.columns,
            columns=self.rows,
            flipped=not self.flipped,
            roundings=self.roundings[::-1],
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
