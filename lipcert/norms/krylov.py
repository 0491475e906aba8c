"""Lower *estimates* of spectral norms of many masked maps at once, by power iteration and Krylov spaces."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lipcert.graph.operators import LinearMap

FEW_STEPS = 8
"""Up to so many Krylov directions are made orthogonal to the others once; more need it twice, or rounding loses it."""

EXHAUSTED = 1e-2
"""A Krylov direction this much shorter than before orthogonalisation adds nothing (also in bfloat16)."""

ALIVE = 1e-3
"""Share of a constant in a shared start vector, so that no mask leaves it zero."""

DENSE_STEPS = 3
"""Krylov steps of a dense map for each power step of a convolution: cheap there, and needed."""

SQUARINGS = 5
"""Pairs of squarings after which the powers of two eigenvalues that differ by a thousandth differ by a factor of 3."""

MEMORY = 0.9
"""What the typical vector of a dense map keeps of itself when another image's is added."""


def per_image(values: Tensor, dimensions: int) -> Tensor:
    """Reshape (B,) so that it broadcasts against a tensor of `dimensions` dimensions."""
    return values.view(-1, *(1 for _ in range(dimensions - 1)))


def lengths_of(vectors: Tensor) -> Tensor:
    """Return l2 lengths of a batch, (B,), accumulated in float32 at least."""
    accumulated = torch.promote_types(vectors.dtype, torch.float32)
    return torch.linalg.vector_norm(vectors, dim=tuple(range(1, vectors.dim())), dtype=accumulated)


def over_lengths(vectors: Tensor, lengths: Tensor) -> Tensor:
    """Return vectors over their lengths, (B, *shape) and (B,); dead ones, whose squares underflow, get no longer."""
    divisors = lengths.clamp_min(torch.finfo(lengths.dtype).tiny ** 0.5)
    return vectors / per_image(divisors, vectors.dim()).to(vectors)


def unit_vector(vector: Tensor, fallback: Tensor, out: Tensor | None = None) -> Tensor:
    """Scale (1, n) to length 1; keep `fallback` where it died. `out`: where to write it."""
    lengths = lengths_of(vector)[:, None]
    return torch.where(lengths > 0, vector / lengths, fallback, out=out)


@torch.no_grad()
def averaged(typical: Tensor, left: Tensor) -> Tensor:
    """Give a typical left vector, (1, n) of length 1, a share of another one's direction, up to its sign; return it."""
    unit = unit_vector(left.to(typical), typical)
    sign = torch.where((unit * typical).sum() < 0, -1.0, 1.0)
    return unit_vector(MEMORY * typical + (1 - MEMORY) * sign * unit, typical, out=typical)


class _Stretch(torch.autograd.Function):
    """By how much vectors u are stretched to the rows that a mask leaves of M u, (B,); and these.

    Only the former gets a gradient, and only with respect to M u.
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor, rows: Tensor | None, vector: Tensor) -> tuple[Tensor, Tensor]:
        left = image if rows is None else image * rows
        lengths, own = lengths_of(left), lengths_of(vector)
        own = own.clamp_min(torch.finfo(own.dtype).tiny ** 0.5)
        ctx.save_for_backward(left, lengths, own)
        ctx.shape = image.shape
        ctx.mark_non_differentiable(left)
        ctx.set_materialize_grads(False)
        return lengths / own, left

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: None) -> tuple[Tensor, None, None]:
        left, lengths, own = ctx.saved_tensors
        scale = over_lengths(gradient / own, lengths)
        return (left * per_image(scale, left.dim()).to(left)).sum_to_size(ctx.shape), None, None


class Estimate(NamedTuple):
    """A lower *estimate* of a norm, (B,), and the left vectors M u it was found with, (B, *output_shape)."""

    norm: Tensor
    left: Tensor


def estimate_norm(linear_map: LinearMap, vector: Tensor, rows: Tensor | None = None) -> Estimate:
    """Return a lower *estimate* ||diag(rows) M u|| / ||u||, with the norm's gradient v u^T at (u, v).

    `vector`: u, (B, *input_shape), a constant inside the column mask; `rows`: (B, *output_shape), entries 0 or 1, or
    None. B may be 1 for either, for all images alike.
    """
    return Estimate(*_Stretch.apply(linear_map.apply(vector), rows, vector))


@torch.no_grad()
def power_iteration(linear_map: LinearMap, right: Tensor, steps: int, scaled: bool = False) -> Tensor:
    """Return vectors near the first right singular vectors, (B or 1, *input_shape), after `steps` - 1 steps.

    A step is one M and one Mᵀ; the last M is left to the estimate of the norm. Lengths are arbitrary: what gets scaled
    is M u, on the side that a strided convolution makes small.

    Args:
        linear_map: M, masks included.
        right: u, (B or 1, *input_shape), inside the column mask: Mᵀ v for v near a left singular vector.
        steps: >= 1.
        scaled: u has a length near 1, so that the first step does without.
    """
    for step in range(steps - 1):
        left = linear_map.apply(right)
        left = left if scaled and step == 0 else over_lengths(left, lengths_of(left))
        right = linear_map.adjoint(left)
    return right


def _whole_lengths(tensors: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    """Return the length of each tensor as a whole, (n,)."""
    return torch.stack(torch._foreach_norm(tensors))


class _Stretches(torch.autograd.Function):
    """By how much vectors of lengths `own`, (n,), are stretched to their n images; and the lengths of these, (n,)."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, *images: Tensor) -> tuple[Tensor, Tensor]:
        lengths, own = _whole_lengths(images), own.clamp_min(torch.finfo(own.dtype).tiny ** 0.5)
        ctx.save_for_backward(lengths, own, *images)
        ctx.mark_non_differentiable(lengths)
        ctx.set_materialize_grads(False)
        return lengths / own, lengths

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: None) -> tuple[Tensor | None, ...]:
        lengths, own, *images = ctx.saved_tensors
        scales = over_lengths(gradient / own, lengths)
        return None, *(image * scale for image, scale in zip(images, scales, strict=True))


def global_norms(
    maps: Sequence[LinearMap], vectors: Sequence[Tensor], steps: int, keep: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """Return *estimates* of the norms of n maps, (n,), after power steps on all of them side by side, and left vectors.

    Args:
        maps: M, without masks, the same for all images.
        vectors: near left singular vectors, (1, *output_shape) each.
        steps: >= 1.
        keep: write the left vectors, of length 1, into `vectors`, which stay as they are where the iteration died.
    """
    with torch.no_grad():
        pairs = list(zip(maps, vectors, strict=True))  # maps that only move entries must not hand on what is written to
        rights = [each.adjoint(vector.clone() if each.roundings == (0, 0) else vector) for each, vector in pairs]
        for _ in range(steps - 1):
            lefts = [each.apply(right) for each, right in zip(maps, rights, strict=True)]
            divisors = _whole_lengths(lefts)
            divisors = divisors.clamp_min(torch.finfo(divisors.dtype).tiny ** 0.5)
            rights = [each.adjoint(left / own) for each, left, own in zip(maps, lefts, divisors, strict=True)]
    images = [each.apply(right) for each, right in zip(maps, rights, strict=True)]
    norms, lengths = _Stretches.apply(_whole_lengths(rights), *images)
    with torch.no_grad():
        lefts = [
            torch.where(alive, image / length, vector, out=vector if keep else None)
            for alive, image, length, vector in zip(lengths > 0, images, lengths, vectors, strict=True)
        ]
    return norms, lefts


def local_norms(
    linear_map: LinearMap,
    vector: Tensor,
    rows: Tensor | None,
    columns: Tensor | None,
    steps: int,
    gram: Tensor | None = None,
    low: bool = False,
) -> Estimate:
    """Return *estimates* of the norms of diag(rows) M diag(columns), (B,) or (1,), with gradients of the map.

    Args:
        linear_map: M.
        vector: (1, *output_shape), near left singular vectors: where all images start.
        rows, columns: 0/1 masks, (B, *output_shape) and (B, *input_shape); None for ones.
        steps: power steps, or for a dense map `DENSE_STEPS` Krylov steps each.
        gram: M Mᵀ of a dense map, on which Krylov steps are then taken.
        low: in bfloat16, faster where the processor has it: a relative error of 2^-8 in the vector changes the norm it
            yields by its square, and errors of single products average out.
    """
    origin = linear_map.origin
    dtype = torch.bfloat16 if low else origin.dtype
    rows, columns = (None if mask is None else mask.to(dtype) for mask in (rows, columns))
    with torch.autocast(origin.device.type, torch.bfloat16, enabled=low):
        right = _right_vectors(linear_map, vector, rows, columns, steps, gram).to(dtype)
        found = estimate_norm(linear_map, right, rows)
    return found._replace(norm=found.norm.to(origin.dtype))


@torch.no_grad()
def _right_vectors(
    linear_map: LinearMap, vector: Tensor, rows: Tensor | None, columns: Tensor | None, steps: int, gram: Tensor | None
) -> Tensor:
    """Return right vectors inside the column mask, (B or 1, *input_shape); arguments as in `local_norms`."""
    masked = linear_map.restricted(rows, columns)
    if len(linear_map.output_shape) != 1:
        right = shared_right_vector(linear_map, vector)
        right = right if columns is None else right.to(columns) * columns
        return power_iteration(masked, right, steps, scaled=True)
    shared = vector + ALIVE * vector.numel() ** -0.5
    left = shared.expand(masked.images, *linear_map.output_shape)
    left = left if rows is None else left.to(rows) * rows
    if gram is None:
        return krylov_iteration(masked, left, DENSE_STEPS * steps)
    return masked.adjoint(leading_vector(gram, rows, left, DENSE_STEPS * steps))


@torch.no_grad()
def shared_right_vector(linear_map: LinearMap, left: Tensor) -> Tensor:
    """Return u = M^T v with a share of a constant, (1, *input_shape), of a length near 1.

    `left`: v, (1, *output_shape), near a left singular vector.
    """
    right = linear_map.adjoint(left)
    lengths = lengths_of(right)
    raised = torch.add(right, per_image(lengths, right.dim()).to(right), alpha=ALIVE * right[0].numel() ** -0.5)
    return over_lengths(raised, lengths)


def _krylov_basis(start: Tensor, steps: int, advance: Callable[[Tensor], Tensor]) -> Tensor:
    """Return orthonormal bases of the Krylov spaces of `start`, (B, steps, n); exhausted directions are 0.

    `advance` maps unit vectors to the next ones, (B, n) both; it is not called on the last.
    """
    basis = start.new_zeros(start.shape[0], steps, start.shape[1])
    for step in range(steps):
        before = length = lengths_of(start)
        found = basis[:, :step]
        for _ in range(min(step, 1 if steps <= FEW_STEPS else 2)):
            along = (found @ start.unsqueeze(-1)).mT
            start = torch.baddbmm(start.unsqueeze(1), along, found, alpha=-1)[:, 0]
        if step:
            length = lengths_of(start)
        # What orthogonalisation leaves of a vector inside the space already spanned is rounding: drop it.
        length = length.masked_fill(length <= EXHAUSTED * before, torch.inf)
        torch.div(start, per_image(length, 2), out=basis[:, step])
        if step < steps - 1:
            start = advance(basis[:, step])
    return basis


def _best_combination(symmetric: Tensor, vectors: Tensor) -> Tensor:
    """Return `vectors`, (B, k, n), combined by the leading eigenvector of `symmetric`, (B, k, k), as (B, n).

    The matrix is positive semidefinite. Its power 2^(2 `SQUARINGS`) has one column beside which others vanish; unlike
    `eigh`, which a GPU's host waits for, that takes the same few products whatever the values.
    """
    power = symmetric
    for pair in range(SQUARINGS):
        if pair % 2 == 0:  # four squarings of a matrix of trace 1 cannot underflow
            power = over_lengths(power, power.diagonal(dim1=-2, dim2=-1).sum(dim=-1))
        power = power @ power
        power = power @ power
    largest = power.diagonal(dim1=-2, dim2=-1).argmax(dim=-1).view(-1, 1, 1).expand(-1, 1, power.shape[-1])
    coefficients = power.gather(1, largest).nan_to_num(0.0, 0.0, 0.0)
    return (coefficients @ vectors)[:, 0]


@torch.no_grad()
def krylov_iteration(linear_map: LinearMap, start: Tensor, steps: int) -> Tensor:
    """Return the best vectors u = M^T v, (B, *input_shape), with v in the Krylov space of `start`.

    Costs what as many power steps do, and `steps` vectors an image on either side; for fully connected layers,
    whose leading singular values lie close together after training.

    Args:
        linear_map: M, masks included.
        start: (B, *output_shape), near a left singular vector and inside the row mask.
        steps: >= 1.
    """
    working = torch.promote_types(start.dtype, torch.float32)
    rights: list[Tensor] = []

    def to_right(left: Tensor) -> None:
        rights.append(linear_map.adjoint(left.view(-1, *linear_map.output_shape)).flatten(1).to(working))

    def advance(left: Tensor) -> Tensor:
        to_right(left)
        return linear_map.apply(rights[-1].view(-1, *linear_map.input_shape)).flatten(1).to(working)

    lefts = _krylov_basis(start.flatten(1).to(working), steps, advance)
    to_right(lefts[:, -1])
    basis = torch.stack(rights, dim=1)
    with torch.autocast(basis.device.type, enabled=False):
        return _best_combination(basis @ basis.mT, basis).view(-1, *linear_map.input_shape)


@torch.no_grad()
def leading_vector(gram: Tensor, rows: Tensor | None, start: Tensor, steps: int) -> Tensor:
    """Return the best vectors v, (B, n), for diag(rows) G diag(rows) in the Krylov space of `start`.

    Args:
        gram: G, (n, n), symmetric and positive semidefinite.
        rows: (B, n), entries 0 or 1; None for ones.
        start: (B, n), inside the mask.
        steps: dimension of the space, >= 1.
    """
    images: list[Tensor] = []

    def advance(left: Tensor) -> Tensor:
        images.append(left @ gram if rows is None else left @ gram * rows.to(gram))
        return images[-1]

    with torch.autocast(gram.device.type, enabled=False):
        basis = _krylov_basis(start.to(gram), steps, advance)
        advance(basis[:, -1])
        symmetric = basis @ torch.stack(images, dim=1).mT
        return _best_combination((symmetric + symmetric.mT) / 2, basis).to(start)
