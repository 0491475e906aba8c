"""One batch at every epsilon: the largest first, whose certificates hold at the smaller ones, too."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lipcert.certificates import Certificate
from lipcert.certificates.cascade import Cascade
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
    started = time.perf_counter()
    tallies = [(tally.entered, tally.certified, tally.seconds) for tally in cascade.tallies]
    bounded = cascade.norms_bounded
    names = [stage.name for stage in cascade.stages]
    undecided = torch.arange(len(labels))
    latest: dict[int, Row] = {}
    rows: list[Row] = []
    for epsilon in sorted(epsilons, reverse=True):
        if len(undecided):
            at = undecided.to(images.device)
            certificate = cascade(images[at], labels[at], epsilon)
            found = _rows(
                certificate, epsilon, labels[at].tolist(), [first + each for each in undecided.tolist()], names
            )
            for place, row in zip(undecided.tolist(), found, strict=True):
                latest[place] = _with_known_radius(row, latest.get(place))
            undecided = undecided[~certificate.certified]
        rows += [replace(row, epsilon=epsilon) for row in latest.values()]
    norms = {name: NormBracket(lower, upper) for name, (lower, upper) in cascade.norm_brackets().items()}
    stages = tuple(
        StageWork(tally.entered - entered, tally.certified - certified, tally.seconds - seconds)
        for tally, (entered, certified, seconds) in zip(cascade.tallies, tallies, strict=True)
    )
    return Batch(
        count=len(labels),
        rows=tuple(rows),
        norms_bounded=cascade.norms_bounded - bounded,
        stages=stages,
        norms=norms,
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
    """Return the rows of a certificate, one an image; what came out NaN is stated as the worst there is."""
    columns = zip(
        indices,
        labels,
        certificate.prediction.tolist(),
        certificate.margin.nan_to_num(-math.inf, math.inf, -math.inf).tolist(),
        certificate.certified.tolist(),
        certificate.lipschitz.nan_to_num(math.inf, math.inf).tolist(),
        certificate.radius.tolist(),
        certificate.rounding.nan_to_num(math.inf, math.inf).tolist(),
        certificate.stage.tolist(),
        strict=True,
    )
    return [
        Row(
            index=index,
            label=label,
            prediction=prediction,
            epsilon=epsilon,
            margin=margin,
            certified=certified,
            lipschitz=lipschitz,
            radius=radius,
            rounding=rounding,
            stage=names[stage] if certified else "",
        )
        for index, label, prediction, margin, certified, lipschitz, radius, rounding, stage in columns
    ]
