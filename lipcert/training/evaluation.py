"""Clean, attacked and certified accuracy of a trained network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from lipcert.attacks import pgd_robust
from lipcert.bounds import Bound, LanczosNorms, analyze
from lipcert.certificates import Certificate, certify, global_lipschitz
from lipcert.certificates.certify import FAILURE_PROBABILITY
from lipcert.data import Split


def _fraction(flags: torch.Tensor) -> float:
    return flags.double().mean().item()


@torch.no_grad()
def varying_fractions(model: nn.Module, split: Split, epsilon: float, bound: Bound) -> dict[str, float]:
    """Return the mean proportion of varying neurons of each activation, over at most 1,000 images."""
    images, _ = split.first(1000)[:]
    masked = Bound.LOCAL if bound is Bound.GLOBAL else bound
    norms = LanczosNorms(steps=10, whole_steps=60)
    analysis = analyze(model.double(), images.double(), epsilon, masked, norms)
    model.float()
    return {
        bounds.name: 1.0 if bounds.varying is None else bounds.varying.mean().item() for bounds in analysis.activations
    }


def evaluate(
    model: nn.Module,
    split: Split,
    epsilon: float,
    bound: Bound,
    bounds: Sequence[str],
    lanczos_steps: int,
    pgd_steps: int,
    batch_size: int,
    clip_input: bool,
) -> dict[str, Any]:
    """Return the evaluated part of `results.json`, with one certified accuracy for each of `bounds`.

    `certified_accuracy` is that of `bound`; all are sound at `failure_probability`, their union bound together.
    """
    model = model.eval()
    images, labels = split[:]
    certificates: dict[str, Certificate] = {}
    for name in dict.fromkeys((str(bound), *bounds)):
        norms = LanczosNorms(lanczos_steps, failure_probability=FAILURE_PROBABILITY)
        certificates[name] = certify(model, images, labels, epsilon, name, batch_size, clip_input, norms)
    local = certificates.get("local", certificates[str(bound)])
    with torch.no_grad():
        clean = torch.cat([model(batch).argmax(dim=1) for batch in images.split(500)]) == labels
    robust = pgd_robust(model, images, labels, epsilon, pgd_steps) if pgd_steps else clean
    lipschitz = {name: certificate.lipschitz.mean().item() for name, certificate in certificates.items()}
    result = {
        "num_test": len(split),
        "clean_accuracy": _fraction(clean),
        "pgd_accuracy": _fraction(robust) if pgd_steps else None,
        "certified_accuracy": certificates[str(bound)].certified_accuracy,
        "certified_accuracy_by_bound": {
            name: certificate.certified_accuracy for name, certificate in certificates.items()
        },
        "failure_probability": sum(certificate.failure_probability for certificate in certificates.values()),
        "global_lipschitz": lipschitz.get("global", math.nan),
        "local_lipschitz_mean": local.lipschitz.mean().item(),
        "lipschitz_by_bound": lipschitz,
        "lipschitz_to_logits": global_lipschitz(model, tuple(images.shape[1:])),
        "varying_fraction": varying_fractions(model, split, epsilon, bound),
    }
    return result
