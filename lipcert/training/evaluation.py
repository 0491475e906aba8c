"""Clean, attacked and certified accuracy of a trained network, the images split over processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lipcert.attacks import auto_attack_robust, pgd_robust
from lipcert.bounds import RULES, Bound
from lipcert.certificates import Certificate, Certifier, Float64Model, certify_batches
from lipcert.certificates.certificate import EXACT
from lipcert.certificates.certifier import FAILURE_PROBABILITY
from lipcert.data import Split
from lipcert.data.progress import Advance, progress
from lipcert.norms import UpperNorms
from lipcert.training.counts import Counts
from lipcert.training.processes import from_every_process, ranks

MEANS_STEPS = 40
"""Most Lanczos steps of a norm an image where Lipschitz bounds are averaged."""


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
        seed: of the attack's random starts.
        autoattack_images: AutoAttack attacks the first so many test images; 0 for none.
    """

    bounds: Sequence[str]
    lanczos_steps: int
    pgd_steps: int
    batch_size: int
    clip_input: bool
    lipschitz_images: int
    seed: int = 0
    autoattack_images: int = 0


@dataclass(frozen=True)
class InTurn:
    """Which images each bound certifies, (N,) bool by bound.

    `certified` is of the exact network, as in the literature; `executed` of the network in the precision of its
    weights, rounding included.
    """

    certified: dict[str, Tensor]
    executed: dict[str, Tensor]


def certify_in_turn(
    network: Float64Model,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    bounds: Sequence[str],
    settings: EvaluationSettings,
    advance: Advance = lambda done, total: None,
) -> InTurn:
    """Certify with the global bound first; the others see only what it left undecided.

    `local` and `tight` certify whatever `global` does (Theorem 1); for `linear_split`, which need not, the flags are
    those of it and `global` together. No bound certifies a wrong prediction.
    """

    def certify(bound: str, rows: Tensor) -> tuple[Certificate, Tensor]:
        certifier = Certifier(network, bound, settings.lanczos_steps, settings.clip_input, EXACT)
        certificate = certify_batches(certifier, images[rows], labels[rows], epsilon, settings.batch_size)
        return certificate, certificate.certified & (certificate.margin > certificate.rounding)

    others = [bound for bound in bounds if bound != "global"]
    advance(0, 1 + len(others))
    first, first_executed = certify("global", torch.arange(len(labels)))
    undecided = (first.correct(labels) & ~first.certified).nonzero()[:, 0]
    certified, executed = {"global": first.certified}, {"global": first_executed}
    for number, bound in enumerate(others, 1):
        advance(number, 1 + len(others))
        certified[bound], executed[bound] = first.certified.clone(), first_executed.clone()
        if len(undecided):
            certificate, executed[bound][undecided] = certify(bound, undecided)
            certified[bound][undecided] = certificate.certified
    return InTurn({bound: certified[bound] for bound in bounds}, executed)


def attack_counts(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    certified: Tensor,
    epsilon: float,
    settings: EvaluationSettings,
    first: int,
) -> Counts:
    """Return how many images of a chunk withstand PGD, and AutoAttack as well.

    AutoAttack is spared images that PGD has broken, and those `certified` as executed, (B,): nothing can break them.
    `first`, the chunk's first image's index, decides the random starts, whatever the number of processes.
    """
    with torch.no_grad():
        robust = model(images).argmax(dim=1) == labels
    counts = Counts(clean=int(robust.sum()))
    if settings.pgd_steps:
        with torch.random.fork_rng([images.device] if images.is_cuda else []):
            torch.manual_seed(settings.seed * 1_000_003 + first)
            robust = pgd_robust(model, images, labels, epsilon, settings.pgd_steps)
        counts += Counts(robust=int(robust.sum()))
    few = slice(max(0, settings.autoattack_images - first))
    withstood, images, labels = robust[few], images[few], labels[few]
    rows = (withstood & ~certified[few]).nonzero()[:, 0]
    if len(rows):
        withstood[rows] = auto_attack_robust(model, images[rows], labels[rows], epsilon, seed=settings.seed)
    return counts + Counts(attacked=len(withstood), withstood=int(withstood.sum()))


@torch.no_grad()
def lipschitz_counts(
    network: Float64Model, images: Tensor, epsilon: float, bound: Bound, settings: EvaluationSettings
) -> Counts:
    """Return sums of Lipschitz bounds up to the last activation; `local` stands in for bounds without masks."""
    masked = bound if RULES[bound].masks else Bound.LOCAL
    counts = Counts()
    for batch in images.split(settings.batch_size):
        analysis = network.analyze(batch, epsilon, masked, min(MEANS_STEPS, settings.lanczos_steps))
        varying = {
            each.name: float(len(batch))
            if each.varying is None
            else each.varying.flatten(1).double().mean(dim=1).sum().item()
            for each in analysis.activations
        }
        counts += Counts(
            lipschitz_images=len(batch),
            global_lipschitz=analysis.global_lipschitz.item(),
            local_lipschitz=analysis.lipschitz.expand(len(batch)).sum().item(),
            varying=varying,
        )
    return counts


def evaluation_counts(
    model: nn.Module, split: Split, epsilon: float, bounds: Sequence[str], settings: EvaluationSettings
) -> Counts:
    """Return what this process finds: it takes every so many-th chunk of `settings.batch_size` images."""
    rank, processes = ranks()
    size = settings.batch_size
    starts = range(rank * size, len(split), processes * size)
    chunks = [(start, *split[start : start + size]) for start in starts]
    if not chunks:
        return Counts()
    images, labels = (torch.cat(each) for each in list(zip(*chunks, strict=True))[1:])
    network = Float64Model(model, UpperNorms(settings.lanczos_steps, failure_probability=FAILURE_PROBABILITY))
    with progress("certify by bounds", shown=rank == 0) as advance:
        in_turn = certify_in_turn(network, images, labels, epsilon, bounds, settings, advance)
    counts = Counts(
        images=len(labels),
        certified={name: int(flags.sum()) for name, flags in in_turn.certified.items()},
        executed={name: int(flags.sum()) for name, flags in in_turn.executed.items()},
    )
    decided = torch.stack(list(in_turn.executed.values())).any(dim=0).split(size)
    with progress("attack batches", shown=rank == 0) as advance:
        for number, ((start, batch, batch_labels), certified) in enumerate(zip(chunks, decided, strict=True)):
            advance(number, len(chunks))
            counts += attack_counts(model, batch, batch_labels, certified, epsilon, settings, start)
    averaged = [
        batch[: settings.lipschitz_images - start] for start, batch, _ in chunks if start < settings.lipschitz_images
    ]
    if averaged:
        counts += lipschitz_counts(network, torch.cat(averaged), epsilon, Bound(bounds[0]), settings)
    return replace(counts, failure_probability=network.norms.union_failure_probability)


def evaluate(
    model: nn.Module, split: Split, epsilon: float, bound: Bound, settings: EvaluationSettings
) -> dict[str, Any]:
    """Return the evaluated part of `results.json`, with one certified accuracy for each bound.

    Every process of a run calls it, takes a part of the images and gets the sums over all.

    `certified_accuracy` is that of `bound`, of the exact network as in the literature; `certified_accuracy_executed`
    that of the network in the precision of its weights. All hold together with probability 1 - `failure_probability`.
    """
    model = model.eval()
    bounds = list(dict.fromkeys((str(bound), *settings.bounds)))
    parts = from_every_process(lambda: evaluation_counts(model, split, epsilon, bounds, settings))
    counts = sum(parts, Counts())
    certified = {name: count / counts.images for name, count in counts.certified.items()}
    return {
        "num_test": counts.images,
        "clean_accuracy": counts.clean / counts.images,
        "pgd_accuracy": counts.robust / counts.images if settings.pgd_steps else None,
        "autoattack_accuracy": counts.withstood / counts.attacked if counts.attacked else None,
        "autoattack_images": counts.attacked or None,
        "certified_accuracy": certified[str(bound)],
        "certified_accuracy_executed": counts.executed[str(bound)] / counts.images,
        "certified_accuracy_by_bound": certified,
        "failure_probability": counts.failure_probability,
        "global_lipschitz": counts.global_lipschitz,
        "local_lipschitz_mean": counts.local_lipschitz / counts.lipschitz_images,
        "lipschitz_images": counts.lipschitz_images,
        "varying_fraction": {name: total / counts.lipschitz_images for name, total in counts.varying.items()},
    }
