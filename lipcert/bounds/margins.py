"""Worst margins at the logits: exact maxima over a ball intersected with a box (eq. 24), and their rounding.

For K classes, B images and n inputs the directions w_j - w_y are a tensor of B·K·n entries, and so is all that leads
from them to the margins: `pair_support` makes it for some classes at a time, forward and backward. By the envelope
theorem the gradient needs nothing but the maximiser δ(t) = clip(t d, lower, upper), which follows from d and t.
"""

from collections.abc import Iterator
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lipcert.bounds.analysis import Analysis
from lipcert.bounds.region import Region, Term
from lipcert.bounds.rounding import l2_norm, of_differences
from lipcert.graph import LinearMap, Operator
from lipcert.nn.activations import minimum

SETTLED_EVERY = 8
"""Newton rounds between two questions whether anything still moves; each makes a GPU wait for the host."""

LARGEST_CHUNK = {"cpu": 2**20, "cuda": 2**22}
"""Entries of the directions that are handled at a time, by type of device."""

LONGEST_STEP = 1e30
"""Stands for an infinite t, which 0 could not be multiplied with."""


@torch.no_grad()
def _step_length(directions: Tensor, radius: Tensor, reach: Tensor, rounds: int) -> Tensor:
    """Return t with sum min(t |d_i|, reach_i)^2 = radius^2, infinity where the whole box lies in the ball.

    The sum is concave and piecewise linear in t^2, so Newton's method in t^2 rises to the root from below and
    stands still on it after at most as many rounds as there are entries, usually fewer than six.
    """
    slopes, limits, target = directions.square(), reach.square(), radius.square()
    tiny = torch.finfo(directions.dtype).tiny
    square = target / slopes.sum(-1, keepdim=True).clamp_min(tiny)
    for index in range(1, rounds + 1):
        raised = slopes * square
        slope = torch.ops.aten.threshold_backward(slopes, limits - raised, 0).sum(-1, keepdim=True)
        missing = target - torch.minimum(raised, limits).sum(-1, keepdim=True)
        advanced = torch.addcdiv(square, missing.clamp_min(0), slope)  # infinite where nothing can follow any more
        updated = torch.where(advanced.isnan(), square, advanced)  # 0 / 0: nothing can follow, and nothing is missing
        settled = index % SETTLED_EVERY == 0 and torch.equal(updated, square)
        square = updated
        if settled:
            break
    return square.sqrt()


class Maximum(NamedTuple):
    """A largest value, (B, K), and the t at which it was found, (B, K, 1); infinity where the box alone binds."""

    value: Tensor
    step: Tensor


def _largest(directions: Tensor, radius: Tensor, lower: Tensor | None, upper: Tensor | None, rounds: int) -> Maximum:
    """Return what `support` does, and where it is attained: at δ(t) = clip(t d, lower, upper)."""
    if lower is None or upper is None:
        lengths = l2_norm(directions)
        step = torch.where(lengths > 0, radius.view(-1, 1) / lengths, 0)
        return Maximum(radius.view(-1, 1) * lengths, step.unsqueeze(2))
    radius = radius.view(-1, 1, 1)
    low, high = lower.clamp_max(0).unsqueeze(-2), upper.clamp_min(0).unsqueeze(-2)
    reach = torch.where(directions > 0, high, -low)  # how far the entry may follow the direction's sign
    slopes = directions.abs()
    step = _step_length(slopes, radius, reach, rounds)
    boxed = step.isinf()
    length = step.clamp(torch.finfo(step.dtype).tiny, LONGEST_STEP)  # 0 for a radius of 0
    smaller = minimum if torch.is_grad_enabled() else torch.minimum
    offset = smaller(length * slopes, reach)
    price = (radius.square() - offset.square().sum(-1, keepdim=True)) / (2 * length)
    within = (slopes * offset).sum(-1, keepdim=True) + price
    return Maximum(torch.where(boxed, (slopes * reach).sum(-1, keepdim=True), within)[..., 0], step)


def support(
    directions: Tensor, radius: Tensor, lower: Tensor | None, upper: Tensor | None, rounds: int = 100
) -> Tensor:
    """Return max { d·δ : ‖δ‖₂ <= radius, lower <= δ <= upper }, never below the true maximum.

    Args:
        directions: d, (B, K, n).
        radius: (B,), >= 0.
        lower, upper: (B, n) with lower <= 0 <= upper, or None for no box.
        rounds: Newton rounds at most; fewer give a looser value, still an upper bound.

    Returns:
        (B, K). The value is Lagrange's dual r²/(2t) + Σ dδ(t) - δ(t)²/(2t) at δ(t) = clip(t d, lower, upper): at any
        t > 0 an upper bound, at the t found the maximum, with the maximum's gradient by the envelope theorem.
        A direction d is handled as |d| and how far the box lets each entry follow the sign of d.
    """
    return _largest(directions, radius, lower, upper, rounds).value


def _chunks(rows: Tensor, label_rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield classes and their directions w_j - w_y, (B, k, n)."""
    entries = LARGEST_CHUNK.get(rows.device.type, max(LARGEST_CHUNK.values()))
    at_a_time = max(1, entries // max(1, label_rows.numel()))
    for start in range(0, len(rows), at_a_time):
        classes = slice(start, start + at_a_time)
        yield classes, rows[classes] - label_rows.unsqueeze(1)


def _added(total: Tensor | None, part: Tensor) -> Tensor:
    """Return the total of parts so far and another one."""
    return part if total is None else total.add_(part)


class _PairSupport(torch.autograd.Function):
    """`lower`, `upper`: (B, n), on their sides of 0, or None both."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        label_rows: Tensor,
        radius: Tensor,
        lower: Tensor | None,
        upper: Tensor | None,
        rounds: int,
    ) -> Tensor:
        values, steps = [], []
        for _, directions in _chunks(rows, label_rows):
            value, step = _largest(directions, radius, lower, upper, rounds)
            values.append(value)
            steps.append(step)
        ctx.save_for_backward(rows, label_rows, radius, lower, upper, torch.cat(steps, dim=1))
        return torch.cat(values, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, label_rows, radius, lower, upper, steps = ctx.saved_tensors
        of_rows, of_labels, of_radius, of_lower, of_upper = torch.empty_like(rows), None, None, None, None
        for classes, directions in _chunks(rows, label_rows):
            step = steps[:, classes]
            weights = gradient[:, classes].unsqueeze(1)  # (B, 1, k): products with it sum over classes
            offsets = step.clamp_max(LONGEST_STEP) * directions
            if lower is None or upper is None:
                slopes = l2_norm(directions).unsqueeze(2)
            else:
                step = step.clamp_min(torch.finfo(step.dtype).tiny)  # 0 for a radius of 0
                slopes = radius.view(-1, 1, 1) / step
                low, high = lower.unsqueeze(1), upper.unsqueeze(1)
                offsets = torch.maximum(torch.minimum(offsets, high), low)
                of_upper = _added(of_upper, torch.bmm(weights, (directions - high / step).clamp_min_(0))[:, 0])
                of_lower = _added(of_lower, torch.bmm(weights, (directions - low / step).clamp_max_(0))[:, 0])
            of_radius = _added(of_radius, torch.bmm(weights, slopes)[:, 0, 0])
            of_labels = _added(of_labels, torch.bmm(weights, offsets)[:, 0])
            of_rows[classes] = offsets.mul_(weights.mT).sum(dim=0)
        return of_rows, None if of_labels is None else -of_labels, of_radius, of_lower, of_upper, None


def pair_support(
    rows: Tensor, label_rows: Tensor, radius: Tensor, lower: Tensor | None, upper: Tensor | None, rounds: int = 100
) -> Tensor:
    """Return max { (w_j - w_y)·δ : ‖δ‖₂ <= radius, lower <= δ <= upper } for every class j, (B, K), as `support` does.

    Memory is that of (B, K), (B, n) and (K, n), in the backward pass too; second derivatives are not there.

    Args:
        rows: w_j, (K, n).
        label_rows: w_y, (B, n).
        radius: (B,), >= 0.
        lower, upper: (B, n) with lower <= 0 <= upper, or None for no box.
        rounds: Newton rounds at most, as for `support`.
    """
    if lower is None or upper is None:
        return _PairSupport.apply(rows, label_rows, radius, None, None, rounds)
    return _PairSupport.apply(rows, label_rows, radius, lower.clamp_max(0), upper.clamp_min(0), rounds)


def worst_increase(analysis: Analysis, labels: Tensor, box: bool = True, rounds: int = 100) -> Tensor:
    """Return by how much each logit may gain on the label's logit inside the region, (B, K).

    Entry j is max { (w_j - w_y)·δ } over ball ∩ box (eq. 24), 0 for the label; never below the true maximum.

    Args:
        analysis: of a model whose output is a flat vector of logits.
        labels: (B,).
        box: keep the box; False leaves the ball alone, as GloRo does.
        rounds: Newton rounds at most, see `support`.
    """
    *others, last = analysis.families
    gains = _increase(last, analysis.region, labels, box, rounds)
    for terms in others:
        dear = any(term.map.per_image for term in terms)
        if not dear:
            gains = torch.minimum(gains, _increase(terms, analysis.region, labels, box, rounds))
        elif len(classes := _undecided_classes(analysis, labels, gains)):
            refined = torch.minimum(gains[:, classes], _increase(terms, analysis.region, labels, box, rounds, classes))
            gains = gains.index_copy(1, classes, refined)
    return gains


def _is_label(labels: Tensor, like: Tensor) -> Tensor:
    """Return which class is the label, bool of the shape of `like`, (B, K)."""
    return torch.arange(like.shape[1], device=labels.device) == labels.unsqueeze(1)


def _undecided_classes(analysis: Analysis, labels: Tensor, gains: Tensor) -> Tensor:
    """Return the classes that some image of the batch might be taken for, (k,); `gains`: (B, K)."""
    worst = analysis.logits + gains
    if analysis.region.rounding is not None:
        worst = worst + logit_rounding(analysis, labels)
    reaches = ~(worst < analysis.logits.gather(1, labels.unsqueeze(1)))
    is_label = _is_label(labels, gains)
    return (reaches & ~is_label).any(dim=0).nonzero()[:, 0]


def _increase(
    terms: tuple[Term, ...], region: Region, labels: Tensor, box: bool, rounds: int, classes: Tensor | None = None
) -> Tensor:
    """Return the sum over `terms` of their largest contributions to `classes`, (B, k); None for all."""
    total = []
    for term in terms:
        source = term.source
        lower = upper = None
        if box and source.box is not None:
            lower, upper = ((end - source.center).flatten(1) for end in source.box)
        radius = (region.epsilon * source.lipschitz).expand(labels.shape[0])
        if term.map.per_image:
            units = torch.eye(region.center.shape[1], dtype=region.center.dtype, device=region.center.device)
            ahead = units if classes is None else units[classes]
            rows = (term.map.adjoint(each - units[labels]).flatten(1).unsqueeze(1) for each in ahead)
            gains = torch.cat([support(each, radius, lower, upper, rounds) for each in rows], dim=1)
        else:
            matrix = term.map.matrix()
            chosen = matrix if classes is None else matrix[classes]
            gains = pair_support(chosen, matrix[labels], radius, lower, upper, rounds)
        total.append(gains)
    return reduce(torch.add, total)


def logit_rounding(analysis: Analysis, labels: Tensor) -> Tensor:
    """Return how far executed z_j - z_y may be from exact ones, (B, K); 0 for the label.

    Args:
        analysis: made with an arithmetic.
        labels: (B,).

    Raises:
        ValueError: for an analysis made without an arithmetic.
    """
    rounding = analysis.region.rounding
    if rounding is None:
        raise ValueError("Expected an analysis made with an arithmetic.")
    return of_differences(rounding, labels, _varying_inputs(analysis.region, rounding.layer))


def _varying_inputs(region: Region, layer: Operator | None) -> Tensor | None:
    """Return which inputs of the last `layer` vary, (B, ...); None where that is not known."""
    if layer is None or len(region.terms) != 1:
        return None
    (term,) = region.terms.values()
    *moves, last = term.map.operators
    if term.source.varying is None or last is not layer or not all(each.moves for each in moves):
        return None
    return LinearMap(term.map.input_shape, last.input_shape, term.map.origin, tuple(moves)).apply(term.source.varying)


def worst_logits(analysis: Analysis, labels: Tensor, box: bool = True, rounds: int = 100) -> Tensor:
    """Return worst logits z*_j = z_j + max (w_j - w_y)·δ, z*_y = z_y, shape (B, K) (eq. 24).

    Arguments as in `worst_increase`.
    """
    gains = worst_increase(analysis, labels, box, rounds)
    is_label = _is_label(labels, gains)
    return analysis.logits + torch.where(is_label, torch.zeros_like(gains), gains)


def robust_margin(worst: Tensor, labels: Tensor) -> Tensor:
    """Return min over j ≠ y of z_y - z*_j, (B,): certified iff strictly positive. NaN stays NaN.

    Args:
        worst: worst logits z*, (B, K).
        labels: (B,).
    """
    is_label = _is_label(labels, worst)
    others = worst.masked_fill(is_label, -torch.inf).amax(dim=1)
    return worst.gather(1, labels.unsqueeze(1))[:, 0] - others
