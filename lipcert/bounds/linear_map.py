"""Linear maps between two activations: chains and sums of operators, masked on either side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.bounds.operators import Operator, Shape


@dataclass(frozen=True)
class LinearMap:
    """A matrix-free linear map from (B, *input_shape) to (B, *output_shape).

    `trivial`: the identity. `per_image`: the map differs from image to image, B is fixed.
    """

    apply: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor]
    input_shape: Shape
    output_shape: Shape
    trivial: bool = False
    per_image: bool = False

    def after(self, operator: Operator) -> LinearMap:
        """Return operator ∘ self."""
        per_image = self.per_image or operator.per_image
        if self.trivial:
            return LinearMap(
                operator.apply, operator.adjoint, self.input_shape, operator.output_shape, per_image=per_image
            )
        return LinearMap(
            lambda inputs: operator.apply(self.apply(inputs)),
            lambda outputs: self.adjoint(operator.adjoint(outputs)),
            self.input_shape,
            operator.output_shape,
            per_image=per_image,
        )

    def plus(self, other: LinearMap) -> LinearMap:
        """Return self + other, both on the same input."""
        return LinearMap(
            lambda inputs: self.apply(inputs) + other.apply(inputs),
            lambda outputs: self.adjoint(outputs) + other.adjoint(outputs),
            self.input_shape,
            self.output_shape,
            per_image=self.per_image or other.per_image,
        )

    def restricted(self, rows: Tensor | None, columns: Tensor | None) -> LinearMap:
        """Return diag(rows) ∘ self ∘ diag(columns) as a map between the subspaces that the masks leave.

        `rows`: (B, *output_shape), `columns`: (B, *input_shape), entries 0 or 1; None stands for ones. Only outputs
        are masked: inputs of `apply` and `adjoint` must already lie inside.
        """
        if rows is None and columns is None:
            return self
        return LinearMap(
            lambda inputs: _mask(self.apply(inputs), rows),
            lambda outputs: _mask(self.adjoint(outputs), columns),
            self.input_shape,
            self.output_shape,
            per_image=True,
        )

    def transpose(self) -> LinearMap:
        """Return the adjoint as a map of its own."""
        return LinearMap(self.adjoint, self.apply, self.output_shape, self.input_shape, self.trivial, self.per_image)

    def matrix(self, like: Tensor) -> Tensor:
        """Return the dense matrix, (1, outputs, inputs), or (B, outputs, inputs) for a map that is `per_image`.

        For maps with few, flat outputs, a layer onto classes for one. `like`: (B, ...).
        """
        (outputs,) = self.output_shape
        unit_vectors = torch.eye(outputs, dtype=like.dtype, device=like.device)
        if not self.per_image:
            return self.adjoint(unit_vectors).flatten(1).unsqueeze(0)
        rows = [self.adjoint(vector.expand(like.shape[0], outputs)).flatten(1) for vector in unit_vectors]
        return torch.stack(rows, dim=1)


def identity_map(shape: Shape) -> LinearMap:
    """Return the identity on (B, *shape)."""
    return LinearMap(lambda inputs: inputs, lambda outputs: outputs, shape, shape, trivial=True)


def _mask(values: Tensor, mask: Tensor | None) -> Tensor:
    return values if mask is None else values * mask
