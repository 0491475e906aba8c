"""Checks of the hyper-parameters that a user types under `method`."""

from __future__ import annotations

import math


def check_number(name: str, value: object, above: float = -math.inf, below: float = math.inf) -> float:
    """Return `value` if it is a finite number with `above` < value < `below`.

    Raises:
        ValueError: naming `method.<name>`, for anything else.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and above < value < below:
        return float(value)
    limits = [f"{sign} {limit:g}" for sign, limit in ((">", above), ("<", below)) if math.isfinite(limit)]
    expected = " and ".join(["finite", *limits])
    raise ValueError(f"Expected `method.{name}` to be a number, {expected}, got {value!r}.")


def check_least(name: str, value: float, least: float = 0.0) -> None:
    """Raise ValueError, naming `method.<name>`, unless `value` is a finite number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
        raise ValueError(f"Expected `method.{name}` to be a finite number >= {least:g}, got {value!r}.")


def check_whole(name: str, value: int, least: int) -> None:
    """Raise ValueError, naming `method.<name>`, unless `value` is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"Expected `method.{name}` to be a whole number >= {least}, got {value!r}.")


def check_switch(name: str, value: object) -> bool:
    """Return `value` if it is true or false.

    Raises:
        ValueError: naming `method.<name>`, for anything else.
    """
    if isinstance(value, bool):
        return value
    raise ValueError(f"Expected `method.{name}` to be true or false, got {value!r}.")
