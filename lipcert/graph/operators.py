"""Affine operators and linear maps made of them, matrix-free.

An operator holds the weights of one affine layer together with the shape it acts on. It is all that bounds need to
know of the layer (`lipcert.graph.compile` says which layer is which operator).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Shape = tuple[int, ...]

FEW_LAYERS = 6
"""Fewer layers in a row cannot make values vanish in float64: no weight but 0 is below 1e-60."""

LARGEST_GAIN = 1e200
"""What vanished below 1e-308 stays below the smallest norm that is stated if other layers enlarge it by no more."""

ABSOLUTE_STEPS, SMALLEST_ENTRY = 10, 1e-6
"""Steps by which the norm of |A| is bounded, and the smallest entry of the vectors, whose largest is 1."""

ABSOLUTE_ROUNDING = 1e-9
"""Relative room for the rounding of sums of positive numbers in float64."""

Box = tuple[Tensor, Tensor]
"""Lower and upper ends, (B, *shape) each."""


class NonFiniteBoundError(ArithmeticError):
    """A bound came out NaN: nothing may be concluded from it."""


class Magnitudes(NamedTuple):
    """What the rounding of an executed affine layer depends on, |h| <= center + deviation; (B, *output_shape) each.

    Attributes:
        operations: rounded operations of each entry, at most: sums with zeros are exact.
        one_sum: the entry is one sum of products and a bias, in any order: partial sums are sums of some of its terms.
        center: |A| (center + errors) + |b|; `deviation`: |A| deviation; `errors`: |A| errors.
        inputs: |A| 1 of the inputs that may differ from 0; `bias`: |b|, (1, *output_shape).
        largest: what no intermediate result of an image exceeds, (B, 1, ...).
        rows: row norms of A, (1, *output_shape), None for ones.
    """

    operations: Tensor
    one_sum: bool
    center: Tensor
    deviation: Tensor
    errors: Tensor
    inputs: Tensor
    bias: Tensor
    largest: Tensor
    rows: Tensor | None


class _Middle(torch.autograd.Function):
    """Middle and half width of intervals, (B, ...) each, from their ends; two passes forward and two backward."""

    @staticmethod
    def forward(ctx: Any, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        middle = torch.lerp(lower, upper, 0.5)
        return middle, upper - middle

    @staticmethod
    def backward(ctx: Any, of_middle: Tensor, of_half: Tensor) -> tuple[Tensor, Tensor]:
        of_upper = torch.lerp(of_middle, of_half, 0.5)
        return of_middle - of_upper, of_upper


class _LeastNorms(torch.autograd.Function):
    """The smaller of the norms of whole kernels, of a weight (C, ...), and of others, (1, C, H, W); ties are theirs."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, others: Tensor) -> Tensor:
        norms = torch.linalg.vector_norm(weight.flatten(1), dim=1).view(1, -1, 1, 1)
        ctx.save_for_backward(weight, norms, others)
        return torch.minimum(norms, others)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        weight, norms, others = ctx.saved_tensors
        of_norms = torch.ops.aten.threshold_backward(gradient, others - norms, 0)
        factors = of_norms.sum(dim=(0, 2, 3)) / norms.flatten().clamp_min(torch.finfo(norms.dtype).tiny)
        return weight * factors.view(-1, *(1 for _ in weight.shape[1:])), gradient - of_norms


@dataclass(frozen=True)
class Operator:
    """An affine map z = A h + b from (B, *input_shape) to (B, *output_shape).

    Attributes:
        input_shape: of h, without the batch.
        output_shape: of z, without the batch.
        orthogonal_rows: the rows of A are mutually orthogonal (a scaling, a permutation, ...), so the norm of
            a row of W A follows from the norms of the rows of A alone.
        elementwise: every row of A has one entry.
        per_image: A differs from image to image; `images`: how many it differs between, else 1.
        one_sum: of the class: an entry is executed as one sum of products and a bias.

    Raises:
        NotImplementedError: by every method that a subclass leaves out.
    """

    one_sum: ClassVar[bool] = False

    input_shape: Shape
    output_shape: Shape
    orthogonal_rows: bool = field(default=False, kw_only=True)
    elementwise: bool = field(default=False, kw_only=True)
    per_image: bool = field(default=False, kw_only=True)
    images: int = field(default=1, kw_only=True)

    def apply(self, inputs: Tensor) -> Tensor:
        """Return A h, without the bias; `inputs`: h, (B, *input_shape)."""
        raise NotImplementedError

    def affine(self, inputs: Tensor) -> Tensor:
        """Return A h + b; `inputs`: h, (B, *input_shape)."""
        raise NotImplementedError

    def adjoint(self, outputs: Tensor) -> Tensor:
        """Return the transpose of A applied to `outputs`, (B, *output_shape)."""
        raise NotImplementedError

    def absolute(self) -> Operator:
        """Return the operator of |A|, entry by entry."""
        raise NotImplementedError

    def squared(self) -> Operator:
        """Return the operator of A squared entry by entry."""
        raise NotImplementedError

    def products(self) -> tuple[int, int]:
        """Return how many rounded operations make one entry of A h + b, and one entry of Aᵀ v, at most."""
        raise NotImplementedError

    def magnitude(self, size: Tensor) -> Tensor:
        """Return |A| m + |b|, (B, *output_shape), to which the rounding of A h + b is relative; |h| <= `size`."""
        raise NotImplementedError

    def operations(self, nonzero: Tensor) -> Tensor:
        """Return how many rounded operations make each entry of A h + b, at most.

        `nonzero`: (B, *input_shape), 0 for inputs that are 0, where products and sums are exact, 1 for others.
        """
        return nonzero.new_full((), self.products()[0])

    def intermediates(self, size: Tensor) -> Tensor:
        """Return 1 plus a bound on what is computed on the way, and on the factors it meets; |h| <= `size`."""
        return 1 + size

    def box(self, lower: Tensor, upper: Tensor) -> Box:
        """Return the box of A h + b for h in a box: the interval around A mid + b of |A| half."""
        middle, half = self.interval(lower, upper)
        return middle - half, middle + half

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Return the middle and the half width of the box of A h + b for h in a box, (B, *output_shape) each."""
        middle, half = _Middle.apply(lower, upper)
        return self.affine(middle), self.absolute().apply(half)

    def magnitudes(self, center: Tensor, deviation: Tensor, errors: Tensor) -> Magnitudes | None:
        """Return what rounding depends on; None for a layer that computes nothing.

        Args:
            center, deviation: |h| <= center + deviation, (B, *input_shape).
            errors: of executed inputs, at most, (B, *input_shape).
        """
        if self.products()[0] == 0:
            return None
        size = center + deviation + errors
        nonzero = (size > 0).to(size)
        stacked = torch.cat([center + errors, deviation, errors, nonzero])  # |A| is applied once
        near, far, passed, inputs = self.absolute().apply(stacked).chunk(4)
        bias = self.magnitude(torch.zeros_like(size[:1]))
        largest = self.intermediates(size).flatten(1).amax(dim=1).view(-1, *(1 for _ in self.output_shape))
        operations, rows = self.operations(nonzero), self.row_norms()
        return Magnitudes(operations, self.one_sum, near + bias, far, passed, inputs, bias, largest, rows)

    @cached_property
    @torch.no_grad()
    def absolute_norm(self) -> Tensor:
        """Upper bound on the spectral norm of |A|, (1,) or (B,), certain; 1 for a layer that moves entries.

        The smallest s with |A|ᵀ|A| v <= s² v in every entry, over positive v of some steps of power iteration, and
        room for rounding. Source: Collatz, Einschließungssatz für die charakteristischen Zahlen von Matrizen, 1942.
        """
        rows = self.row_norms()
        if rows is None:
            return torch.ones(1, dtype=torch.float64)
        absolute, vector = self.absolute(), rows.new_ones(self.images, *self.input_shape)
        smallest = rows.new_full((self.images,), torch.inf)
        for _ in range(ABSOLUTE_STEPS):
            image = absolute.adjoint(absolute.apply(vector))
            smallest = torch.minimum(smallest, (image / vector).flatten(1).amax(dim=1))
            largest = image.flatten(1).amax(dim=1).view(-1, *(1 for _ in self.input_shape))
            vector = (image / torch.where(largest > 0, largest, 1)).clamp_min(SMALLEST_ENTRY)
        return smallest.sqrt() * (1 + ABSOLUTE_ROUNDING)

    @property
    def moves(self) -> bool:
        """Whether it moves entries, and computes nothing."""
        return self.products()[0] == 0

    def row_norms(self) -> Tensor | None:
        """Return an upper bound on the l2 norm of every row of A, shape (1, *output_shape), or None for ones.

        For a convolution it is the norm of the channel's whole kernel (eq. 23), at the border the sum of the
        absolute weights that reach the image where that is smaller: what an l-infinity box would give there.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Weighted(Operator):
    """Sums of products with a `weight`, and a `bias`."""

    one_sum: ClassVar[bool] = True

    weight: Tensor
    bias: Tensor | None

    def absolute(self) -> Operator:
        return self._absolute

    @cached_property
    def _absolute(self) -> Operator:
        with torch.enable_grad():  # whoever asks for it first, others may ask for its gradient
            return replace(self, weight=self.weight.abs(), bias=None)

    def squared(self) -> Operator:
        return replace(self, weight=self.weight.square(), bias=None)

    def operations(self, nonzero: Tensor) -> Tensor:
        return replace(self, weight=(self.weight != 0).to(nonzero)).apply(nonzero) + 1

    def magnitude(self, size: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.abs()
        return replace(self, weight=self.weight.abs(), bias=bias).affine(size)


@dataclass(frozen=True)
class Dense(Weighted):
    """Fully connected layer on the last of any number of dimensions; `weight`: (out, in)."""

    def apply(self, inputs: Tensor) -> Tensor:
        return F.linear(inputs, self.weight)

    def affine(self, inputs: Tensor) -> Tensor:
        return F.linear(inputs, self.weight, self.bias)

    def adjoint(self, outputs: Tensor) -> Tensor:
        return outputs @ self.weight

    def products(self) -> tuple[int, int]:
        return self.weight.shape[1] + 1, self.weight.shape[0]

    def row_norms(self) -> Tensor:
        return self.weight.norm(dim=1).expand(1, *self.output_shape)


@dataclass(frozen=True)
class Convolution(Weighted):
    """Zero-padded 2-d convolution; `padding` is (left, right, top, bottom)."""

    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int

    def _convolve(self, inputs: Tensor, bias: Tensor | None) -> Tensor:
        left, right, top, bottom = self.padding
        if left == right and top == bottom:
            return F.conv2d(inputs, self.weight, bias, self.stride, (top, left), self.dilation, self.groups)
        padded = F.pad(inputs, self.padding)
        return F.conv2d(padded, self.weight, bias, self.stride, 0, self.dilation, self.groups)

    def apply(self, inputs: Tensor) -> Tensor:
        return self._convolve(inputs, None)

    def affine(self, inputs: Tensor) -> Tensor:
        return self._convolve(inputs, self.bias)

    def adjoint(self, outputs: Tensor) -> Tensor:
        left, right, top, bottom = self.padding
        symmetric = left == right and top == bottom
        height, width = self.input_shape[1:]
        padded = (height, width) if symmetric else (height + top + bottom, width + left + right)
        padding = (top, left) if symmetric else (0, 0)
        kernel = [self.dilation[i] * (self.weight.shape[2 + i] - 1) + 1 for i in (0, 1)]
        reached = [(outputs.shape[2 + i] - 1) * self.stride[i] + kernel[i] - 2 * padding[i] for i in (0, 1)]
        missing = [padded[i] - reached[i] for i in (0, 1)]  # rows and columns at the far border
        result = F.conv_transpose2d(
            outputs, self.weight, None, self.stride, padding, missing, self.groups, self.dilation
        )
        return result if symmetric else result[..., top : top + height, left : left + width]

    def products(self) -> tuple[int, int]:
        outputs, inputs_in_group, height, width = self.weight.shape
        return inputs_in_group * height * width + 1, outputs // self.groups * height * width

    def row_norms(self) -> Tensor:
        absolute_sums = self.absolute().apply(self.weight.new_ones(1, *self.input_shape))
        return _LeastNorms.apply(self.weight, absolute_sums)


@dataclass(frozen=True)
class Selection(Operator):
    """A layer each of whose outputs is one of the inputs or 0, executed without arithmetic (padding, cutting off).

    `move`: the layer's function, (B, *input_shape) to (B, *output_shape); `move_back`: its transpose.
    `copies`: how many outputs an input is, at most; one that is several counts as computed.
    """

    move: Callable[[Tensor], Tensor]
    move_back: Callable[[Tensor], Tensor]
    copies: int = 1

    def apply(self, inputs: Tensor) -> Tensor:
        return self.move(inputs)

    def affine(self, inputs: Tensor) -> Tensor:
        return self.move(inputs)

    def adjoint(self, outputs: Tensor) -> Tensor:
        return self.move_back(outputs)

    def absolute(self) -> Operator:
        return self

    def squared(self) -> Operator:
        return self

    def products(self) -> tuple[int, int]:
        return (0, 0) if self.copies <= 1 else (1, self.copies)

    def magnitude(self, size: Tensor) -> Tensor:
        return self.move(size)

    def row_norms(self) -> Tensor | None:
        return self.move(torch.ones(1, *self.input_shape, dtype=torch.float64))


@dataclass(frozen=True)
class Permutation(Selection):
    """A layer that brings all entries to other places (flatten, pixel unshuffle, identity).

    `move_back`: the inverse of `move`.
    """

    orthogonal_rows: bool = field(default=True, kw_only=True)
    elementwise: bool = field(default=True, kw_only=True)

    def row_norms(self) -> None:
        return None


def reshape(input_shape: Shape, output_shape: Shape) -> Permutation:
    """Return the operator of a change of shape."""
    return Permutation(input_shape, output_shape, _Reshaped(output_shape), _Reshaped(input_shape))


@dataclass(frozen=True)
class _Reshaped:
    """Reshapes to (B, *shape); can be pickled."""

    shape: Shape

    def __call__(self, values: Tensor) -> Tensor:
        return values.reshape(-1, *self.shape)


def permutation(input_shape: Shape, order: Sequence[int]) -> Permutation:
    """Return the operator that brings dimensions into another order, the batch's first.

    Raises:
        ValueError: for an order of another number of dimensions.
    """
    if len(order) != len(input_shape) + 1:
        raise ValueError(f"Expected an order of {len(input_shape) + 1} dimensions, got {tuple(order)}.")
    shape = tuple(input_shape[each - 1] for each in order[1:])
    back = tuple(order.index(each) for each in range(len(order)))
    return Permutation(input_shape, shape, _Permuted(tuple(order)), _Permuted(back))


@dataclass(frozen=True)
class _Permuted:
    """Brings dimensions into another order; can be pickled."""

    order: tuple[int, ...]

    def __call__(self, values: Tensor) -> Tensor:
        return values.permute(self.order)


@dataclass(frozen=True)
class LinearMap:
    """A matrix-free linear map M from (B, *input_shape) to (B, *output_shape).

    Attributes:
        input_shape, output_shape: without the batch.
        origin: an empty tensor that gives dtype and device.
        operators: M is their product, the first one applied first; none for the identity.
        rows, columns: 0/1 masks (B, *shape) of the outputs of `apply` and of `adjoint`; None for ones.
        per_image: the map differs from image to image; `images`: how many it differs between, 1 for one of all.
        roundings: how many rounded operations make one entry of M h and one of Mᵀ v, at most.
    """

    input_shape: Shape
    output_shape: Shape
    origin: Tensor
    operators: tuple[Operator, ...] = ()
    rows: Tensor | None = None
    columns: Tensor | None = None
    per_image: bool = False
    images: int = 1
    roundings: tuple[int, int] = (0, 0)

    def apply(self, inputs: Tensor) -> Tensor:
        """Return M h for `inputs` h, (B, *input_shape)."""
        for operator in self.operators:
            inputs = operator.apply(inputs)
        return inputs if self.rows is None else inputs * self.rows

    def adjoint(self, outputs: Tensor) -> Tensor:
        """Return Mᵀ v for `outputs` v, (B, *output_shape)."""
        for operator in reversed(self.operators):
            outputs = operator.adjoint(outputs)
        return outputs if self.columns is None else outputs * self.columns

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
        masked = rows is not None or columns is not None
        images = self.masked_images(rows, columns)
        return replace(self, rows=rows, columns=columns, per_image=self.per_image or masked, images=images)

    def masked_images(self, rows: Tensor | None, columns: Tensor | None) -> int:
        """Return how many images the map between these masks, as of `restricted`, differs between, else 1."""
        return max([self.images, *(mask.shape[0] for mask in (rows, columns) if mask is not None)])

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


def map_of(operator: Operator, values: Tensor) -> LinearMap:
    """Return the linear map of one operator; `values`: of the dtype and device of its inputs."""
    return LinearMap(operator.input_shape, operator.input_shape, values.new_empty(0)).after(operator)


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

    Raises:
        NonFiniteBoundError: for many layers in a row of which some may bring back what vanished in others.
    """
    _refuse_vanishing(linear_map)
    absolute, images = linear_map.absolute(), linear_map.images
    rows = absolute.apply(linear_map.origin.new_ones(images, *linear_map.input_shape)).flatten(1).amax(dim=1)
    columns = absolute.adjoint(linear_map.origin.new_ones(images, *linear_map.output_shape)).flatten(1).amax(dim=1)
    return rows.sqrt() * columns.sqrt()


def _refuse_vanishing(linear_map: LinearMap) -> float:
    """Return what those operators of a map that enlarge multiply to, at least 1, where nothing that underflows matters.

    Raises:
        NonFiniteBoundError: where some may enlarge by more than `LARGEST_GAIN` what vanished in others.
    """
    gain, origin = 1.0, linear_map.origin
    if len(linear_map.operators) < FEW_LAYERS and not any(isinstance(each, Total) for each in linear_map.operators):
        return gain
    for operator in linear_map.operators:
        if isinstance(operator, Total):
            gain *= _refuse_vanishing(operator.first) + _refuse_vanishing(operator.second)
            continue
        absolute, images = operator.absolute(), operator.images
        rows = absolute.apply(origin.new_ones(images, *operator.input_shape)).max()
        columns = absolute.adjoint(origin.new_ones(images, *operator.output_shape)).max()
        gain *= max(1.0, float(rows), float(columns))
    if gain > LARGEST_GAIN:
        raise NonFiniteBoundError(
            f"{len(linear_map.operators)} linear layers in a row enlarge by up to {gain:.1g}, which float64 cannot "
            "follow where others make values vanish; merge them, or put an activation between them."
        )
    return gain
