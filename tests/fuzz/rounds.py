"""Rounds of few cases: so Hypothesis draws each anew, where later ones of a longer run would resemble each other."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import HealthCheck, given, seed, settings

from tests.fuzz.networks import Case, cases

CASES = 10
"""Of a round; the first is the simplest there is."""

PROFILE = settings(
    max_examples=CASES,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def run_round(number: int, examine: Callable[[Case], object]) -> None:
    """Draw the cases of a round and examine each; where that fails, look for a simpler case that fails too.

    Raises:
        AssertionError: what `examine` raised for the simplest case that was found.
    """

    @seed(number)
    @PROFILE
    @given(cases())
    def examined(case: Case) -> None:
        examine(case)

    examined()
