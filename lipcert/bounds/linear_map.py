"""Linear maps between two activations: chains and sums of operators, masked on either side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lipcert.bounds.operators import Operator, Shape


@dataclass(frozen=True)
class LinearMap:
    """A matrix-free linear map from (B, *input_shape) to (B, *output_shape).

    `trivial`: the identity. `per_image`: the map differs from image to image, B is fixed. `absolute`: makes a map of
    the products of entrywise absolute values, that no entry of this one exceeds. `roundings`: operations that make
    one entry of M h and one of Mᵀ v, at most.
    """

    apply: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor]
    input_shape: Shape
    output_shape: Shape
    absolute: Callable[[], LinearMap]
    trivial: bool = False
    per_image: bool = False
    roundings: tuple[int, int] = (0, 0)

    def after(self, operator: Operator) -> LinearMap:
        """Return operator ∘ self."""
        forward, backward = operator.products()
        chained = LinearMap(
            operator.apply,
            operator.adjoint,
            self.input_shape,
            operator.output_shape,
            absolute=lambda: self.absolute().after(operator.absolute()),
            per_image=self.per_image or operator.per_image,
            roundings=(self.roundings[0] + forward, self.roundings[1] + backward),
        )
        if self.trivial:
            return chained
        return replace(
            chained,
            apply=lambda inputs: operator.apply(self.apply(inputs)),
            adjoint=lambda outputs: self.adjoint(operator.adjoint(outputs)),
        )

    def plus(self, other: LinearMap) -> LinearMap:
        """Return self + other, both on the same input."""
        return LinearMap(
            lambda inputs: self.apply(inputs) + other.apply(inputs),
            lambda outputs: self.adjoint(outputs) + other.adjoint(outputs),
            self.input_shape,
            self.output_shape,
            absolute=lambda: self.absolute().plus(other.absolute()),
            per_image=self.per_image or other.per_image,
            roundings=(
                max(self.roundings[0], other.roundings[0]) + 1,
                max(self.roundings[1], other.roundings[1]) + 1,
            ),
        )

    def restricted(self, rows: Tensor | None, columns: Tensor | None) -> LinearMap:
        """Return diag(rows) ∘ self ∘ diag(columns) as a map between the subspaces that the masks leave.

        `rows`: (B, *output_shape), `columns`: (B, *input_shape), entries 0 or 1; None stands for ones. Only outputs
        are masked: inputs of `apply` and `adjoint` must already lie inside.
        """
        if rows is None and columns is None:
            return self
        return replace(
            self,
            apply=lambda inputs: _mask(self.apply(inputs), rows),
            adjoint=lambda outputs: _mask(self.adjoint(outputs), columns),
            trivial=False,
            per_image=True,
        )

    def transpose(self) -> LinearMap:
        """Return the adjoint as a map of its own."""
        return replace(
            self,
            apply=self.adjoint,
            adjoint=self.apply,
            input_shape=self.output_shape,
            output_shape=self.input_shape,
            absolute=lambda: self.absolute().transpose(),
            roundings=self.roundings[::-1],
        )

    def matrix(self, like: Tensor) -> Tensor:
        """Return the dense matrix, (1, outputs, inputs), of a map that is the same for all images.

        For maps with few, flat outputs, a layer onto classes for one. `like` gives the dtype and device.
        """
        (outputs,) = self.output_shape
        unit_vectors = torch.eye(outputs, dtype=like.dtype, device=like.device)
        return self.adjoint(unit_vectors).flatten(1).unsqueeze(0)


def identity_map(shape: Shape) -> LinearMap:
    """Return the identity on (B, *shape)."""
    return LinearMap(
        lambda inputs: inputs, lambda outputs: outputs, shape, shape, lambda: identity_map(shape), trivial=True
    )


@torch.no_grad()
def largest_absolute(linear_map: LinearMap, like: Tensor) -> Tensor:
    """Return a bound on the norm of the map's entrywise absolute value, (1,) or (B,): it needs no iteration.

    The root of the largest row sum times the largest column sum. `like`: (B, ...).
    """
    absolute = linear_map.absolute()
    count = like.shape[0] if linear_map.per_image else 1
    rows = absolute.apply(like.new_ones(count, *linear_map.input_shape)).flatten(1).amax(dim=1)
    columns = absolute.adjoint(like.new_ones(count, *linear_map.output_shape)).flatten(1).amax(dim=1)
    return rows.sqrt() * columns.sqrt()


def _mask(values: Tensor, mask: Tensor | None) -> Tensor:
    return values if mask is None else values * mask
