"""Means and deviations over seeds, and how numbers are written."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

ABSENT = "-"
"""Stands for a number that is not there."""


def mean_and_deviation(values: Sequence[float], factor: float = 100, digits: int = 1) -> str:
    """Format a mean, with its (sample) standard deviation over seeds where there are two or more."""
    if not values:
        return ABSENT
    mean = _fixed(factor * statistics.mean(values), digits)
    return mean if len(values) < 2 else f"{mean} ± {_fixed(factor * statistics.stdev(values), digits)}"


def _fixed(value: float, digits: int) -> str:
    """Return a number with `digits` decimals, or in scientific notation where that would be a row of digits."""
    return f"{value:.2e}" if abs(value) >= 1e5 else f"{value:.{digits}f}"


def percent(fraction: float | None) -> str:
    """Return a fraction as percentage with one decimal."""
    return ABSENT if fraction is None else f"{100 * fraction:.1f}"


def short(value: float) -> str:
    """Return a number with four significant digits, without trailing zeros."""
    return ABSENT if math.isnan(value) else f"{value:.4g}"
