"""How the cost of a training step grows with classes, width, image size and the number of training images."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig

from lipcert.training.timed_steps import Work, random_work

SIZES: dict[str, tuple[float, ...]] = {
    "classes": (10, 50, 200),
    "width": (0.5, 1, 2),
    "image_size": (16, 32, 64),
    "data_size": (1_000, 10_000, 100_000),
}
"""What is varied, one at a time: classes, factor on channels and hidden units, side in pixels, training images."""


def workload(kind: str, size: float, config: DictConfig) -> Work:
    """Return a random network and random images of one size of one kind of growth."""
    named = {"growth": kind, "size": size, "model": config.models[0], "activation": config.activations[0]}
    changed: dict[str, Any] = {
        "classes": {"classes": int(size)},
        "width": {"width": size},
        "image_size": {"image_shape": (config.image_shape[0], int(size), int(size))},
        "data_size": {"images": int(size)},
    }
    return random_work(named, config, **changed[kind])


def growth_exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Return p of the power law cost = c * size^p that fits best: least squares in the logarithms of both.

    Raises:
        ValueError: for fewer than two different sizes, or anything that is not positive.
    """
    return statistics.linear_regression([math.log(size) for size in sizes], [math.log(cost) for cost in costs]).slope


def fits_of(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return sizes, seconds and the exponent that fits them, one row a kind of growth and bound."""
    fits = []
    for kind, bound in dict.fromkeys((row["growth"], row["bound"]) for row in rows):
        own = [row for row in rows if (row["growth"], row["bound"]) == (kind, bound)]
        shown = {
            "sizes": " ".join(f"{row['size']:g}" for row in own),
            "seconds": " ".join(f"{row['seconds']:.4f}" for row in own),
        }
        exponent = growth_exponent([row["size"] for row in own], [row["seconds"] for row in own])
        fits.append({"growth": kind, "bound": bound, **shown, "exponent": exponent})
    return fits
