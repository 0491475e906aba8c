"""How long the parts of an evaluation will take, measured by a few forward passes before it starts."""

import logging
import time
from collections.abc import Sequence
from datetime import timedelta

import torch
from torch import Tensor, nn

from lipcert.bounds import RULES, Bound
from lipcert.certificates import Float64Model
from lipcert.system.schema import EvaluationConfig

logger = logging.getLogger(__name__)

LONG = 60.0
"""Seconds from which on an evaluation is announced."""

PASSES = {"attack": 3, "bound": 2}
"""Forward passes that a step costs: of PGD, forward and backward; of Lanczos, a map and its adjoint."""


@torch.no_grad()
def seconds_a_pass(model: nn.Module, images: Tensor) -> float:
    """Return the seconds of a forward pass for each of some images (B, ...), the faster of two."""
    taken = []
    for _ in range(2):
        started = time.perf_counter()
        model(images).sum().item()  # waits for a GPU
        taken.append(time.perf_counter() - started)
    return min(taken) / len(images)


def estimated_seconds(
    model: nn.Module,
    network: Float64Model,
    images: Tensor,
    count: int,
    bounds: Sequence[str],
    settings: EvaluationConfig,
) -> dict[str, float]:
    """Return the seconds that attack and bounds take for `count` images, by part; few `images` (B, ...) are timed.

    They are rough: images that the global bound certifies cost less, small networks more, whose time is not in passes.
    """
    attacked = PASSES["attack"] * settings.pgd_steps * seconds_a_pass(model, images)
    norms = PASSES["bound"] * settings.lanczos_steps * seconds_a_pass(network.model, images.double())
    parts = {"PGD": attacked} | {f"{bound} bound": norms for bound in bounds if RULES[Bound(bound)].masks}
    return {name: count * seconds for name, seconds in parts.items() if seconds}


def announce(parts: dict[str, float], count: int) -> None:
    """Log how long an evaluation of `count` images takes, where that is `LONG`."""
    total = sum(parts.values())
    if total < LONG:
        return
    said = ", ".join(f"{name} {_said(seconds)}" for name, seconds in parts.items())
    logger.info("Evaluating %d images takes about %s: %s.", count, _said(total), said)


def _said(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
