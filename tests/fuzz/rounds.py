"""Rounds of few cases: so Hypothesis draws each anew, where later ones of a longer run would resemble each other."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.networks import Case, cases

CASES = 10
"""Of a round; the first is the simplest there is."""

PHASES = [Phase.generate]

PROFILE = settings(
    max_examples=CASES,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def run_round(number: int, examine: Callable[[Case], object], simplify: bool = True) -> None:
    """Draw the cases of a round and examine each; where that fails, look for a simpler case that fails, too, if asked.

    Raises:
        AssertionError: what `examine` raised, of the simplest case that was found.
    """

    @seed(number)
    @settings(PROFILE, phases=[*PHASES, Phase.shrink] if simplify else PHASES)
    @given(cases())
    def examined(case: Case) -> None:
        examine(case)

    examined()
