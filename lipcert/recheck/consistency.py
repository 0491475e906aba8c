"""Whether a record agrees with itself: rules that every row obeys, and sums that follow from the rows."""

from __future__ import annotations

import math

from lipcert.recheck.rounding import ARITHMETIC
from lipcert.records import Record, Row

TOLERANCE = 1e-9
"""Relative tolerance on sums of a record."""


def contradictions(record: Record) -> list[str]:
    """Return what contradicts itself in a record, a sentence each, rows by their number in the file (from 0)."""
    found = [
        f"row {number} (image {row.index}, epsilon {row.epsilon:g}): {reason}"
        for number, row in enumerate(record.rows)
        for reason in row_contradictions(row)
    ]
    return [
        *found,
        *_images(record),
        *_totals(record),
        *_stages(record),
        *_failure(record),
        *_arithmetic(record),
        *_norms(record),
    ]


def row_contradictions(row: Row) -> list[str]:
    """Return the rules that a row breaks."""
    rules = {
        f"certified with margin {row.margin:g}": not row.certified or row.margin > 0,
        f"certified, but predicted {row.prediction} for label {row.label}": (
            not row.certified or row.prediction == row.label
        ),
        f"certified with radius {row.radius:g}": not row.certified or row.radius >= row.epsilon,
        f"not certified with radius {row.radius:g}": row.certified or row.radius < row.epsilon,
        "certified by no stage": not row.certified or row.stage != "",
        f"radius {row.radius:g} of a wrong prediction": row.radius <= 0 or row.prediction == row.label,
        f"radius {row.radius:g}": row.radius >= 0,
        f"rounding {row.rounding:g}": row.rounding >= 0,
        f"Lipschitz constant {row.lipschitz:g}": row.lipschitz >= 0,
    }
    return [reason for reason, kept in rules.items() if not kept]


def _images(record: Record) -> list[str]:
    """Rows of one image speak of one label, one prediction."""
    seen: dict[int, Row] = {}
    return [
        f"image {row.index} has labels or predictions that differ between epsilons"
        for row in record.rows
        if (first := seen.setdefault(row.index, row)).label != row.label or first.prediction != row.prediction
    ]


def _close(first: float, second: float) -> bool:
    return math.isclose(first, second, rel_tol=TOLERANCE, abs_tol=1e-300)


def _totals(record: Record) -> list[str]:
    found = []
    if [total.epsilon for total in record.totals] != list(record.contents.epsilons):
        return ["the totals are not of the record's epsilons"]
    for total in record.totals:
        rows = [row for row in record.rows if row.epsilon == total.epsilon]
        correct = sum(row.prediction == row.label for row in rows) / max(1, len(rows))
        certified = sum(row.certified for row in rows) / max(1, len(rows))
        stages = {stage.name: sum(row.stage == stage.name for row in rows) for stage in record.contents.stages}
        said = (total.num_images, total.certified_by_stage)
        if said != (len(rows), stages) or not (
            _close(total.clean_accuracy, correct) and _close(total.certified_accuracy, certified)
        ):
            found.append(
                f"the totals at epsilon {total.epsilon:g} are not those of the rows "
                f"({len(rows)} images, clean {correct:g}, certified {certified:g}, by stage {stages})"
            )
    return found


def _stages(record: Record) -> list[str]:
    """An image that a stage certifies gives that stage a row at one epsilon at least, at each of them at most."""
    found = []
    for stage in record.contents.stages:
        rows = sum(row.stage == stage.name for row in record.rows)
        most = min(stage.entered, stage.certified) * len(record.contents.epsilons)
        if not stage.certified <= rows <= most:
            found.append(f"stage {stage.name!r} certified {stage.certified} of {stage.entered}, but has {rows} rows")
    return found


def _failure(record: Record) -> list[str]:
    said = record.contents.failure_probability
    if not (0 <= said.per_norm <= 1 and said.norms >= 0 and _close(said.total, min(1.0, said.norms * said.per_norm))):
        return [f"the failure probability {said.total:g} is not {said.norms} norms at {said.per_norm:g} each"]
    return []


def _arithmetic(record: Record) -> list[str]:
    """The unit roundoff is that of the dtype in which the network executes."""
    known = {str(dtype).removeprefix("torch."): arithmetic.unit for dtype, arithmetic in ARITHMETIC.items()}
    said = record.contents.arithmetic
    if said.unit_roundoff != known.get(said.executed.removeprefix("torch.")):
        return [f"the unit roundoff of {said.executed} is not {said.unit_roundoff:g}"]
    return []


def _norms(record: Record) -> list[str]:
    return [
        f"the norm of {name!r} has a lower bound {bracket.lower:g} above its upper bound {bracket.upper:g}"
        for name, bracket in record.contents.norms.items()
        if not 0 <= bracket.lower <= bracket.upper
    ]
