"""Checks of the hyper-parameters that a user types under `method`; each names the one that it refuses."""

import math


def check_number(
    name: str, value: object, above: float = -math.inf, least: float = -math.inf, below: float = math.inf
) -> float:
    """Return a finite number with `above` < value < `below`, `least` <= value; raise ValueError for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool) and above < value < below and least <= value:
        return float(value)
    limits = {f"> {above:g}": above, f">= {least:g}": least, f"< {below:g}": below}
    expected = " and ".join(["finite", *(said for said, limit in limits.items() if math.isfinite(limit))])
    raise ValueError(f"Expected `method.{name}` to be a number, {expected}, got {value!r}.")


def check_whole(name: str, value: object, least: int) -> int:
    """Return a whole number of at least `least`; raise ValueError for anything else."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= least:
        return value
    raise ValueError(f"Expected `method.{name}` to be a whole number >= {least}, got {value!r}.")


def check_switch(name: str, value: object) -> bool:
    """Return true or false; raise ValueError for anything else."""
    if isinstance(value, bool):
        return value
    raise ValueError(f"Expected `method.{name}` to be true or false, got {value!r}.")
