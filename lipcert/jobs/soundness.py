"""The job of `lipcert.soundness`: certify, try to refute the certificates, write the findings."""

import math
from dataclasses import asdict

from omegaconf import DictConfig

from lipcert.jobs.preparation import check_choice, check_numbers, make_folder, prepare
from lipcert.jobs.tables import print_findings
from lipcert.records.fingerprint import model_sha256
from lipcert.soundness.attacked import ATTACKS, Strength, usable_attacks
from lipcert.soundness.examination import examine
from lipcert.version import __version__

SHOWN = 3
"""Most refutations that the error names; the file has all."""


def run(config: DictConfig) -> float:
    """Try to refute a network's certificates; return the least room that attacks left above a certified margin.

    Raises:
        ArithmeticError: naming refuted images or layers, after the findings are written.
        ValueError, OSError: for settings, files or folders that cannot be, before anything is computed.
    """
    positive = ("side", "steps", "restarts", "queries", "batch_size")
    check_numbers(config, positive, not_negative=("norms", "seed"))
    names = ATTACKS if config.attacks is None else config.attacks
    check_choice("attacks", names, ATTACKS)
    strength = Strength(config.steps, config.restarts, config.queries, config.batch_size, config.seed)
    subject = prepare(config)
    classes = subject.data.num_classes
    attacks = usable_attacks(names, subject.data.image_shape, classes)
    if not attacks:
        raise ValueError(f"None of attacks={list(names)} works on {classes} classes; leave attacks= out.")
    about = {
        "lipcert_version": __version__,
        "checkpoint": str(subject.checkpoint),
        "model": {"sha256": model_sha256(subject.model), "description": dict(subject.network.description)},
        "data": subject.data.name,
        "epsilon": subject.epsilon,
        "strength": asdict(strength),
        "side": config.side,
    }
    folder = subject.output("soundness")
    make_folder(folder)
    findings = examine(
        subject.model, *subject.tensors(), subject.epsilon, about, attacks, strength, config.norms, config.side
    )
    findings.write(folder)
    print_findings(findings, folder)
    if refuted := findings.refutations:
        more = f"; and {len(refuted) - SHOWN} more" if len(refuted) > SHOWN else ""
        raise ArithmeticError(f"Refuted: {'; '.join(refuted[:SHOWN])}{more}.")
    return min((each.smallest_room for each in findings.attacks), default=math.inf)
