"""What executing a network shows of every row of a record, without any bound: at the image and at points near it."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lipcert.recheck.attack import descend, differences, lengths, scaled
from lipcert.recheck.consistency import place
from lipcert.recheck.program import Program
from lipcert.recheck.rounding import ARITHMETIC
from lipcert.recheck.verdict import Rechecker
from lipcert.records import Record, Row

BATCH_SIZE = 128
"""Rows executed at a time."""

TOLERANCE = 1e-6
"""Relative tolerance of values that follow from others, on their modulus + 1 for margins."""

STEPS = 4
"""Of descents and ascents from each image: few, as every row has them."""


class Claim(NamedTuple):
    """A value of each row, (B,), that may not be `above` or below a limit, (B,), `of` what the sentence says."""

    name: str
    value: Tensor
    above: bool
    limit: Tensor
    of: str

    def wrong(self) -> Iterator[tuple[int, str]]:
        """Yield the rows whose value is wrong, by number, with a reason; a limit that is NaN is missed."""
        kept = self.value <= self.limit if self.above else self.value >= self.limit
        for number in (self.value.isfinite() & ~kept).nonzero()[:, 0].tolist():
            value, limit = float(self.value[number]), float(self.limit[number])
            yield number, f"{self.name} {value:.9g} is {'above' if self.above else 'below'} {limit:.9g}, {self.of}"


def contradicted_by_execution(rechecker: Rechecker, record: Record, images: Tensor, labels: Tensor) -> list[str]:
    """Return what labels, predictions and values of the executed network contradict, a sentence each.

    Args:
        rechecker: of the network.
        record: of it.
        images: (N, C, H, W), all that the record is about, float pixels in [0, 1].
        labels: (N,), their classes.
    """
    proved = {row.index: row.epsilon for row in sorted(record.rows, key=lambda row: row.epsilon) if row.certified}
    found = []
    for first in range(0, len(record.rows), BATCH_SIZE):
        rows = record.rows[first : first + BATCH_SIZE]
        index = torch.tensor([row.index for row in rows])
        own = torch.tensor([row.label for row in rows])
        epsilons = [max(row.epsilon, proved[row.index]) if row.certified else row.epsilon for row in rows]
        wrong = [(each, f"label {own[each]} of class {labels[index[each]]}") for each in _other(own, labels[index])]
        wrong += _predictions(rechecker, rows, images[index])
        for claim in _claims(rechecker, rows, images[index], own, torch.tensor(epsilons, dtype=torch.float64)):
            wrong += claim.wrong()
        found += [place(record, first + number) + reason for number, reason in wrong]
    return found


def _other(values: Tensor, others: Tensor) -> list[int]:
    return (values != others).nonzero()[:, 0].tolist()


@torch.no_grad()
def _predictions(rechecker: Rechecker, rows: Sequence[Row], images: Tensor) -> list[tuple[int, str]]:
    """Return the rows whose prediction the network cannot make, even where logits are as close as rounding."""
    said = torch.tensor([row.prediction for row in rows])
    made = rechecker.model(images.to(rechecker.program.dtype)).argmax(dim=1)
    return [
        (number, f"prediction {said[number]}, but the network predicts {made[number]}")
        for number in _other(said, made)
        if not rechecker.may_predict(images[number], rows[number].prediction)
    ]


def _claims(
    rechecker: Rechecker, rows: Sequence[Row], images: Tensor, labels: Tensor, certificates: Tensor
) -> list[Claim]:
    """Return what rows claim; `certificates`: the epsilon at which each was derived, (B,)."""
    program, clip_input = rechecker.program, rechecker.clip_input
    margin, rounding, lipschitz, epsilon, radius = (
        torch.tensor([getattr(row, name) for row in rows], dtype=torch.float64)
        for name in ("margin", "rounding", "lipschitz", "epsilon", "radius")
    )
    executable = images.to(program.dtype)
    with torch.no_grad():
        executed = differences(rechecker.model(executable).double(), labels)
        exact = differences(program(images)[program.output], labels)
    changed = (executed - exact).abs().nan_to_num(torch.inf).amin(dim=1)
    lengths_of_pairs = rechecker.global_norms.pair_lengths[labels]
    converted = ARITHMETIC[program.dtype].unit * (images.double().flatten(1).norm(dim=1) + certificates)
    widened = certificates * (1 + TOLERANCE) + converted  # points of the ball move when they are converted
    follows = (exact - (widened * lipschitz).unsqueeze(1) * lengths_of_pairs).amin(dim=1)

    def attacked(radii: Tensor) -> Tensor:
        return descend(rechecker.model, executable, labels, radii, clip_input, STEPS, executable)[1]

    room, real = TOLERANCE * (1 + margin.abs()), margin + rounding
    further = (radius > 0) & (radius != epsilon) & radius.isfinite()
    sources = tuple(rechecker.global_norms.feeding[program.output])
    slope = slopes(program, sources, images.double(), epsilon, clip_input) / (1 + TOLERANCE)
    return [
        Claim("margin", margin, True, executed.amin(dim=1) + room, "that of the network executed at the image"),
        Claim("margin", margin, True, attacked(epsilon) + room, "that of the network executed within epsilon"),
        Claim("margin + rounding", real, True, exact.amin(dim=1) + room, "that of the exact network at the image"),
        Claim("margin + rounding", real, False, follows - room, "what follows from lipschitz"),
        Claim("rounding", rounding, False, changed / 2, "what it changes at the image"),  # half: ours rounds, too
        Claim("lipschitz", lipschitz, False, slope, "the slope between the image and another within epsilon"),
        Claim(
            "radius",
            radius,
            True,
            torch.where(further & (attacked(torch.where(further, radius, epsilon)) <= 0), 0.0, torch.inf),
            "within which an image is not classified as its label",
        ),
    ]


def slopes(program: Program, sources: Sequence[int], images: Tensor, epsilon: Tensor, clip_input: bool) -> Tensor:
    """Return the largest |h(x') - h(x)| / |x' - x| found within epsilon, (B,): no Lipschitz constant is below it.

    Where h is linear the ascent is power iteration: the gradient of |h(x + v) - h(x)|² is 2 JᵀJ v.

    Args:
        program: of the network.
        sources: values h; the largest slope of any counts.
        images: x, (B, C, H, W), float64.
        epsilon: (B,).
        clip_input: let x' have pixels in [0, 1] only.
    """
    with torch.no_grad():
        centers = [program(images)[source].flatten(1) for source in sources]
    largest, change = torch.zeros_like(epsilon), torch.randn_like(images)
    for _ in range(STEPS):
        points = images + scaled(change, epsilon * (1 - TOLERANCE))
        points = (points.clamp(0, 1) if clip_input else points).requires_grad_()
        values = program(points)
        moved = [values[source].flatten(1) - each for source, each in zip(sources, centers, strict=True)]
        for move, center in zip(moved, centers, strict=True):
            length = (move.detach().norm(dim=1) - 1e-12 * center.norm(dim=1)) / lengths(points - images).flatten()
            largest = torch.maximum(largest, length.nan_to_num(0.0, 0.0))
        (change,) = torch.autograd.grad(torch.stack([move.square().sum() for move in moved]).sum(), points)
    return largest
