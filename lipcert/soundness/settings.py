"""The settings of a soundness run, checked before anything is computed."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from lipcert.certification.settings import listed
from lipcert.soundness.attacked import ATTACKS, Strength

SMALLEST = {"norms": 0, "side": 1, "steps": 1, "restarts": 1, "queries": 1, "batch_size": 1, "seed": 0}


def check_numbers(config: DictConfig) -> None:
    """Raise ValueError naming a number that is too small."""
    for name, smallest in SMALLEST.items():
        if config[name] < smallest:
            raise ValueError(f"Expected `{name}` >= {smallest}, got {config[name]}.")


def chosen_attacks(given: Any) -> tuple[str, ...]:
    """Return the attacks asked for, all when None.

    Raises:
        ValueError: for an unknown one, one twice or none at all.
    """
    names = ATTACKS if given is None else tuple(listed(given) or ())
    if not names or not set(names) <= set(ATTACKS) or len(set(names)) < len(names):
        raise ValueError(f"Expected `attacks` to be some of {', '.join(ATTACKS)}, each once, got {list(names)}.")
    return names


def chosen_strength(config: DictConfig) -> Strength:
    """Return how hard to attack."""
    return Strength(config.steps, config.restarts, config.queries, config.batch_size, config.seed)
