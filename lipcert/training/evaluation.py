"""Clean, attacked and certified accuracy of a trained network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lipcert.attacks import pgd_robust
from lipcert.bounds import Bound, UpperNorms, analyze
from lipcert.certificates import Certificate, certify
from lipcert.certificates.certify import EXACT, FAILURE_PROBABILITY
from lipcert.certificates.validation import double_copy
from lipcert.data import Split

MEANS_STEPS = 40
"""Most Lanczos steps of a norm an image where Lipschitz bounds are averaged."""


def _fraction(flags: torch.Tensor) -> float:
    return flags.double().mean().item()


@dataclass(frozen=True)
class EvaluationSettings:
    """How a trained network is evaluated.

    Attributes:
        bounds: the bounds to certify with.
        lanczos_steps: of each norm an image.
        pgd_steps: 0 for no attack.
        batch_size: images bounded at a time.
        clip_input: confine the adversary to pixels in [0, 1].
        lipschitz_images: the first so many test images are averaged for Lipschitz bounds and varying neurons.
    """

    bounds: Sequence[str]
    lanczos_steps: int
    pgd_steps: int
    batch_size: int
    clip_input: bool
    lipschitz_images: int


@dataclass(frozen=True)
class InTurn:
    """Which images each bound certifies, and at what failure probability in all.

    `certified` speaks of the exact network, as the literature does; `executed` of the network in the precision of its
    weights, rounding included.
    """

    certified: dict[str, Tensor]
    executed: dict[str, Tensor]
    failure_probability: float


def certify_in_turn(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    bounds: Sequence[str],
    settings: EvaluationSettings,
) -> InTurn:
    """Certify with the global bound first; the others see only what it left undecided.

    `local` and `tight` certify whatever `global` does (Theorem 1); for `linear_split`, which need not, the flags are
    those of it and `global` together. No bound certifies a wrong prediction.
    """

    def certified_by(bound: str, rows: Tensor) -> Certificate:
        return certify(
            model,
            images[rows],
            labels[rows],
            epsilon,
            bound,
            settings.batch_size,
            settings.clip_input,
            settings.lanczos_steps,
            arithmetic=EXACT,
        )

    def executed_by(certificate: Certificate) -> Tensor:
        return certificate.certified & (certificate.margin > certificate.rounding)

    whole = certified_by("global", torch.arange(len(labels)))
    undecided = (whole.correct(labels) & ~whole.certified).nonzero()[:, 0]
    certified, failure = {"global": whole.certified}, whole.failure_probability
    executed = {"global": executed_by(whole)}
    for bound in bounds:
        if bound == "global":
            continue
        flags, as_executed = whole.certified.clone(), executed["global"].clone()
        if len(undecided):
            certificate = certified_by(bound, undecided)
            flags[undecided], as_executed[undecided] = certificate.certified, executed_by(certificate)
            failure += certificate.failure_probability
        certified[bound], executed[bound] = flags, as_executed
    return InTurn({bound: certified[bound] for bound in bounds}, executed, failure)


@dataclass(frozen=True)
class LipschitzMeans:
    """Mean bounds over some test images, and the mean proportion of varying neurons a layer."""

    whole: float
    local: float
    varying: dict[str, float]
    failure_probability: float


def lipschitz_means(
    model: nn.Module, images: Tensor, epsilon: float, bound: Bound, batch_size: int, steps: int
) -> LipschitzMeans:
    """Return mean Lipschitz bounds up to the last activation; `local` stands in where `bound` is `global`."""
    masked = Bound.LOCAL if bound is Bound.GLOBAL else bound
    double = double_copy(model)
    norms = UpperNorms(min(MEANS_STEPS, steps), failure_probability=FAILURE_PROBABILITY)
    local: list[Tensor] = []
    varying: dict[str, list[Tensor]] = {}
    whole = 1.0
    with torch.no_grad():
        for batch in images.double().split(batch_size):
            analysis = analyze(double, batch, epsilon, masked, norms)
            local.append(analysis.lipschitz.expand(len(batch)))
            whole = analysis.global_lipschitz.item()
            for each in analysis.activations:
                fraction = torch.ones(len(batch)) if each.varying is None else each.varying.flatten(1).mean(dim=1)
                varying.setdefault(each.name, []).append(fraction)
    fractions = {name: torch.cat(values).double().mean().item() for name, values in varying.items()}
    return LipschitzMeans(whole, torch.cat(local).mean().item(), fractions, norms.union_failure_probability)


def evaluate(
    model: nn.Module, split: Split, epsilon: float, bound: Bound, settings: EvaluationSettings
) -> dict[str, Any]:
    """Return the evaluated part of `results.json`, with one certified accuracy for each bound.

    `certified_accuracy` is that of `bound`, of the exact network as in the literature; `certified_accuracy_executed`
    that of the network in the precision of its weights. All hold together with probability 1 - `failure_probability`.
    """
    model = model.eval()
    images, labels = split[:]
    bounds = list(dict.fromkeys((str(bound), *settings.bounds)))
    in_turn = certify_in_turn(model, images, labels, epsilon, bounds, settings)
    with torch.no_grad():
        clean = torch.cat([model(batch).argmax(dim=1) for batch in images.split(500)]) == labels
    robust = pgd_robust(model, images, labels, epsilon, settings.pgd_steps) if settings.pgd_steps else None
    averaged = images[: settings.lipschitz_images]
    means = lipschitz_means(model, averaged, epsilon, bound, settings.batch_size, settings.lanczos_steps)
    certified = {name: _fraction(flags) for name, flags in in_turn.certified.items()}
    return {
        "num_test": len(split),
        "clean_accuracy": _fraction(clean),
        "pgd_accuracy": None if robust is None else _fraction(robust),
        "certified_accuracy": certified[str(bound)],
        "certified_accuracy_executed": _fraction(in_turn.executed[str(bound)]),
        "certified_accuracy_by_bound": certified,
        "failure_probability": in_turn.failure_probability + means.failure_probability,
        "global_lipschitz": means.whole,
        "local_lipschitz_mean": means.local,
        "lipschitz_images": len(averaged),
        "varying_fraction": means.varying,
    }
