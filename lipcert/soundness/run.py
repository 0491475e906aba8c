"""One soundness run: certify, try to refute in four ways, write what was found."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from rich.console import Console
from torch import Tensor, nn

from lipcert.certificates import certify
from lipcert.certification.settings import (
    chosen_data,
    chosen_device,
    chosen_epsilon,
    chosen_images,
    chosen_output,
    make_folder,
    required_checkpoint,
)
from lipcert.checkpoints import load_network, read_checkpoint
from lipcert.data import load_images
from lipcert.records import model_sha256
from lipcert.soundness.attacked import AttackFound, Certified, Strength, attack_certified, usable_attacks
from lipcert.soundness.findings import Findings, RefutedError, write_findings
from lipcert.soundness.norms import compare_norms
from lipcert.soundness.precision import PrecisionFound, compare_precisions
from lipcert.soundness.report import report
from lipcert.soundness.rounding import RoundingFound, compare_rounding
from lipcert.soundness.settings import check_numbers, chosen_attacks, chosen_strength
from lipcert.system.plugins import load_plugins
from lipcert.version import __version__

SHOWN = 3
"""Most refutations that the error names; the file has all."""


def run(config: DictConfig) -> float:
    """Try to refute a network's certificates; return the least room that attacks left above a certified margin.

    Raises:
        RefutedError: naming an image or a layer, after the findings are written.
        ValueError, OSError: for settings, files or folders that cannot be, before anything is computed.
    """
    load_plugins(config.plugins)
    check_numbers(config)
    checkpoint, device, names = (
        required_checkpoint(config),
        chosen_device(config.device),
        chosen_attacks(config.attacks),
    )
    folder, strength = chosen_output(checkpoint, config.output, "soundness"), chosen_strength(config)
    description = read_checkpoint(checkpoint).description
    epsilon, data = chosen_epsilon(config.epsilon, description), chosen_data(config, description)
    source = load_images(data, config.data.root)
    images, labels = (each.to(device) for each in chosen_images(source, data, config.data.limit_test)[:])
    shape = tuple(images.shape[1:])
    network = load_network(
        checkpoint, shape, source.num_classes, config.model.name, config.model.activation, config.builder
    )
    model = network.model.to(device)
    about = {
        "lipcert_version": __version__,
        "checkpoint": str(checkpoint),
        "model": {"sha256": model_sha256(model), "description": dict(network.description)},
        "data": data,
        "epsilon": epsilon,
        "strength": asdict(strength),
        "side": config.side,
    }
    usable = usable_attacks(names, shape, source.num_classes)
    if not usable:
        raise ValueError(f"None of attacks={list(names)} works on {source.num_classes} classes; leave attacks= out.")
    make_folder(folder)
    findings = examine(model, images, labels, epsilon, about, usable, strength, config.norms, config.side)
    write_findings(findings, folder)
    report(findings, folder)
    refuse(findings)
    return min((each.smallest_room for each in findings.attacks), default=float("inf"))


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
    found: list[AttackFound] = []
    rounding: RoundingFound | None = None
    precision: PrecisionFound | None = None
    if len(rows):
        certified, points = everything.rows(rows), []
        for name in attacks:
            for box in (True, False):
                _say(f"{name}, pixels {'in [0, 1]' if box else 'free'}")
                outcome, reached = attack_certified(model, certified, name, box, strength)
                found.append(outcome)
                points.append(reached)
        _say("rounding")
        rounding = compare_rounding(model, certified, points)
        _say("float64")
        precision = compare_precisions(model, certified, certificate.stage[rows], strength.seed)
    return Findings(about, len(labels), len(rows), seconds, compared, tuple(found), rounding, precision)


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
