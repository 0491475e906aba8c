"""One batch at every epsilon: the largest first, whose certificates hold at the smaller ones, too."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lipcert.certificates import Cascade, Certificate
from lipcert.records import Batch, NormBracket, Row, StageWork


def certify_batch(cascade: Cascade, images: Tensor, labels: Tensor, first: int, epsilons: Sequence[float]) -> Batch:
    """Certify a batch at each epsilon.

    An image that is certified at one epsilon keeps that certificate at all smaller ones; a radius that was proved at a
    larger epsilon stays proved.

    Args:
        cascade: of the network.
        images: (B, C, H, W), float, pixels in [0, 1], on the device of the cascade.
        labels: (B,), integers.
        first: index of the first image in its split.
        epsilons: l2 radii, in any order.
    """
    started, bounded, before = time.perf_counter(), cascade.norms_bounded, [replace(each) for each in cascade.tallies]
    names = [stage.name for stage in cascade.stages]
    undecided = torch.arange(len(labels))
    latest: dict[int, Row] = {}
    rows: list[Row] = []
    for epsilon in sorted(epsilons, reverse=True):
        if len(undecided):
            certificate = cascade(images[undecided], labels[undecided], epsilon)
            indices = [first + each for each in undecided.tolist()]
            for row in _rows(certificate, epsilon, labels[undecided].tolist(), indices, names):
                latest[row.index] = _with_known_radius(row, latest.get(row.index))
            undecided = undecided[~certificate.certified]
        rows += [replace(row, epsilon=epsilon) for row in latest.values()]
    return Batch(
        count=len(labels),
        rows=tuple(rows),
        norms_bounded=cascade.norms_bounded - bounded,
        stages=tuple(
            StageWork(tally.entered - old.entered, tally.certified - old.certified, tally.seconds - old.seconds)
            for tally, old in zip(cascade.tallies, before, strict=True)
        ),
        norms={name: NormBracket(lower, upper) for name, (lower, upper) in cascade.norm_brackets().items()},
        seconds=time.perf_counter() - started,
    )


def _with_known_radius(row: Row, before: Row | None) -> Row:
    """Return a row with the radius that a larger epsilon proved, where that is more and the row is certified."""
    if before is None or not row.certified or before.radius <= row.radius:
        return row
    return replace(row, radius=before.radius)


def _rows(
    certificate: Certificate, epsilon: float, labels: list[int], indices: list[int], names: list[str]
) -> list[Row]:
    """Return the rows of a certificate, one an image; NaN becomes the worst value."""
    columns = (
        indices,
        labels,
        certificate.prediction.tolist(),
        [epsilon] * len(labels),
        certificate.margin.nan_to_num(-math.inf, math.inf, -math.inf).tolist(),
        certificate.certified.tolist(),
        certificate.lipschitz.nan_to_num(math.inf, math.inf).tolist(),
        certificate.radius.tolist(),
        certificate.rounding.nan_to_num(math.inf, math.inf).tolist(),
        [names[stage] if stage >= 0 else "" for stage in certificate.stage.tolist()],
    )
    return [Row(*row) for row in zip(*columns, strict=True)]
