"""Certifies images and tries to refute the certificates in four ways; the findings, and how they are written."""

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from lipcert.certificates import certify
from lipcert.soundness.arithmetic import PrecisionOutcome, RoundingOutcome, compare_precisions, compare_rounding
from lipcert.soundness.attacked import AttackOutcome, Certified, Strength, attack_certified
from lipcert.soundness.norms import NormsOutcome, compare_norms
from lipcert.system.execution import refuse_execution
from lipcert.system.files import write_json

NAME = "soundness.json"


@dataclass(frozen=True)
class Findings:
    """Outcome of all parts, on the first `images` test images, of which `certified` were.

    `about`: network, data, radius and settings, as JSON values. `rounding`, `precision`: None where nothing was
    certified.
    """

    about: Mapping[str, Any]
    images: int
    certified: int
    certify_seconds: float
    norms: NormsOutcome
    attacks: tuple[AttackOutcome, ...] = ()
    rounding: RoundingOutcome | None = None
    precision: PrecisionOutcome | None = None

    @property
    def refutations(self) -> list[str]:
        """A sentence for everything that is refuted."""
        parts = (self.norms, *self.attacks, self.rounding, self.precision)
        return [sentence for part in parts if part is not None for sentence in part.refutations]

    def write(self, folder: Path) -> None:
        """Write `soundness.json`, in place of an earlier one, with null for numbers that are not finite."""
        parts = asdict(self)
        content = json.dumps({**parts.pop("about"), "refuted": self.refutations, **parts})
        write_json(folder / NAME, json.loads(content, parse_constant=lambda constant: None))


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
    refuse_execution(set(map(type, model.modules())), images.device)
    _say("norms")
    compared = compare_norms(model, images, epsilon, norms, side, np.random.default_rng(strength.seed))
    _say("certificates")
    started = time.perf_counter()
    certificate = certify(model, images, labels, epsilon)
    seconds = time.perf_counter() - started
    kept, columns = certificate.certified, (certificate.margin, certificate.rounding, torch.arange(len(labels)))
    certified = Certified(epsilon, images, labels, *(each.to(images.device) for each in columns)).rows(kept)
    findings = Findings(about, len(labels), len(certified), seconds, compared)
    if not len(certified):
        return findings
    outcomes, points = [], []
    for name in attacks:
        for box in (True, False):
            _say(f"{name}, pixels {'in [0, 1]' if box else 'free'}")
            outcome, reached = attack_certified(model, certified, name, box, strength)
            outcomes.append(outcome)
            points.append(reached)
    _say("rounding")
    rounded = compare_rounding(model, certified, points)
    _say("float64")
    precise = compare_precisions(model, certified, certificate.stage[kept], strength.seed)
    return replace(findings, attacks=tuple(outcomes), rounding=rounded, precision=precise)


def _say(part: str) -> None:
    """Tell a user at a terminal what is going on."""
    if sys.stderr.isatty():
        Console(stderr=True).print(f"[dim]{time.strftime('%H:%M:%S')} {part}[/dim]")
