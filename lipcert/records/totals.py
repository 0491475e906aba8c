"""What rows amount to, for writers and for those who check."""

from __future__ import annotations

from collections.abc import Sequence

from lipcert.records.format import Row, Totals


def totals(rows: Sequence[Row], epsilons: Sequence[float], stages: Sequence[str]) -> tuple[Totals, ...]:
    """Return clean and certified accuracy at each epsilon, and how many images each stage certified."""
    return tuple(_totals([row for row in rows if row.epsilon == epsilon], epsilon, stages) for epsilon in epsilons)


def _totals(rows: Sequence[Row], epsilon: float, stages: Sequence[str]) -> Totals:
    count = max(1, len(rows))
    by_stage = {stage: sum(row.certified and row.stage == stage for row in rows) for stage in stages}
    return Totals(
        epsilon=epsilon,
        num_images=len(rows),
        clean_accuracy=sum(row.prediction == row.label for row in rows) / count,
        certified_accuracy=sum(row.certified for row in rows) / count,
        certified_by_stage=by_stage,
    )
