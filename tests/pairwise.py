"""Pairwise parametrization: every two values of different parameters meet in some case, few cases in all."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from itertools import combinations, product

import pytest

Case = tuple[int, ...]
"""An index into the values of each parameter."""


def pairwise(**values: Iterable[object]) -> pytest.MarkDecorator:
    """Parametrize a test with a covering array of strength two instead of the product of its parameters.

    With one parameter or two that is the product itself.
    """
    axes = [tuple(axis) for axis in values.values()]
    cases = [tuple(axis[i] for axis, i in zip(axes, case, strict=True)) for case in cover([len(axis) for axis in axes])]
    return pytest.mark.parametrize(tuple(values), cases)


def cover(sizes: Sequence[int]) -> list[Case]:
    """Return cases in which all pairs of indices appear, chosen greedily: the case with most new pairs comes next.

    Equal choices are settled in favour of the first case, so the result is the same in every process.
    """
    candidates = list(product(*map(range, sizes)))
    missing = {pair for case in candidates for pair in _pairs(case)}
    chosen = []
    while missing:
        best = max(candidates, key=lambda case: len(missing & _pairs(case)))
        missing -= _pairs(best)
        chosen.append(best)
    return chosen


def _pairs(case: Case) -> set[Hashable]:
    return set(combinations(enumerate(case), min(2, len(case))))
