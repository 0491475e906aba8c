"""The settings of a measurement, checked before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from omegaconf import DictConfig

from lipcert.bounds import Bound
from lipcert.certification.settings import check_failure_probability

SMALLEST = {
    "lanczos_steps": 1,
    "points": 1,
    "rounds": 0,
    "pgd_steps": 1,
    "restarts": 1,
    "convergence_images": 0,
    "iterations": 1,
    "thumbnails": 0,
    "seed": 0,
}


def check_numbers(config: DictConfig) -> None:
    """Raise ValueError naming a number that is out of range."""
    for name, smallest in SMALLEST.items():
        if config[name] < smallest:
            raise ValueError(f"Expected `{name}` >= {smallest}, got {config[name]}.")
    if not 1 <= config.reach < math.inf:
        raise ValueError(f"Expected `reach` >= 1 and finite, got {config.reach}.")
    if not 0 < config.tolerance < 1:
        raise ValueError(f"Expected `tolerance` in (0, 1), got {config.tolerance}.")
    check_failure_probability(config.failure_probability)


def chosen_bounds(names: Sequence[str] | None) -> tuple[Bound, ...]:
    """Return the bounds that are named.

    Raises:
        ValueError: for an unknown one, one twice or none at all.
    """
    bounds = tuple(Bound(name) for name in names or ())
    if not bounds or len(set(bounds)) < len(bounds):
        raise ValueError(f"Expected `bounds` to be some of {', '.join(Bound)}, each once, got {list(names or ())}.")
    return bounds


def grid(epsilon: float, reach: float, points: int) -> tuple[float, ...]:
    """Return radii up to `reach` times epsilon at even distances, epsilon itself among them, the smallest first."""
    shares = {round(reach * step / points, 12) for step in range(1, points + 1)} | {1.0}
    return tuple(share * epsilon for share in sorted(shares))
