"""Certifies images and tries to refute the certificates in four ways."""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from lipcert.certificates import certify
from lipcert.soundness.attacked import AttackOutcome, Certified, Strength, attack_certified
from lipcert.soundness.findings import Findings, RefutedError
from lipcert.soundness.norms import compare_norms
from lipcert.soundness.precision import PrecisionOutcome, compare_precisions
from lipcert.soundness.rounding import RoundingOutcome, compare_rounding

SHOWN = 3
"""Most refutations that the error names; the file has all."""


def examine(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    about: dict[str, Any],
    attacks: tuple[str, ...],
    strength: Strength,
    norms: int,
    side: int,
) -> Findings:
    """Run all four parts on images (N, C, H, W) and labels (N,), on the device of the model in eval mode."""
    _say("norms")
    compared = compare_norms(model, images, epsilon, norms, side, np.random.default_rng(strength.seed))
    _say("certificates")
    started = time.perf_counter()
    certificate = certify(model, images, labels, epsilon)
    seconds = time.perf_counter() - started
    rows = certificate.certified.nonzero()[:, 0]
    everything = Certified(images, labels, certificate.margin, certificate.rounding, torch.arange(len(labels)), epsilon)
    outcomes: list[AttackOutcome] = []
    rounding: RoundingOutcome | None = None
    precision: PrecisionOutcome | None = None
    if len(rows):
        certified, points = everything.rows(rows), []
        for name in attacks:
            for box in (True, False):
                _say(f"{name}, pixels {'in [0, 1]' if box else 'free'}")
                outcome, reached = attack_certified(model, certified, name, box, strength)
                outcomes.append(outcome)
                points.append(reached)
        _say("rounding")
        rounding = compare_rounding(model, certified, points)
        _say("float64")
        precision = compare_precisions(model, certified, certificate.stage[rows], strength.seed)
    return Findings(about, len(labels), len(rows), seconds, compared, tuple(outcomes), rounding, precision)


def refuse(findings: Findings) -> None:
    """Raise RefutedError with the first refutations, if there are any."""
    sentences = findings.refutations
    if sentences:
        more = f"; and {len(sentences) - SHOWN} more" if len(sentences) > SHOWN else ""
        raise RefutedError(f"Refuted: {'; '.join(sentences[:SHOWN])}{more}.")


def _say(part: str) -> None:
    """Tell a user at a terminal what is going on."""
    if sys.stderr.isatty():
        Console(stderr=True).print(f"[dim]{time.strftime('%H:%M:%S')} {part}[/dim]")
