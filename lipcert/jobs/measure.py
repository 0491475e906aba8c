"""The job of `lipcert.measure`: certify radii by each bound, attack, count power iterations, write."""

import math
import time
from dataclasses import replace

import torch
from omegaconf import DictConfig
from torch import Tensor

from lipcert.attacks.foolbox_pgd import attack_at_growing_radii, refutations
from lipcert.bounds import Bound
from lipcert.certificates import Certificate, Certifier, Float64Model, bisect, certify_batches
from lipcert.jobs.power_iterations import convergence_counts
from lipcert.jobs.preparation import Subject, check_choice, check_numbers, make_folder, prepare
from lipcert.jobs.tables import print_measurement
from lipcert.norms import UpperNorms
from lipcert.records import FailureProbability
from lipcert.records.measurement import Attack, Convergence, ConvergenceRow, Header, ImageRow, write_measurement
from lipcert.system.progress import progress
from lipcert.version import __version__

ATTACKED_AT_A_TIME = 100
"""Images of one step of PGD."""

RESOLUTION = 0.02
"""The bisection of an image ends when its radius is known to this share of epsilon."""


def run(config: DictConfig) -> float:
    """Measure, write and print; return the certified accuracy at epsilon by the last bound.

    Raises:
        ArithmeticError: naming an image that is certified and was broken; nothing is written.
        ValueError, OSError: for settings, files or folders that cannot be, before anything is computed.
    """
    started = time.perf_counter()
    check_numbers(
        config,
        positive=("lanczos_steps", "points", "pgd_steps", "restarts", "iterations"),
        not_negative=("rounds", "convergence_images", "thumbnails", "seed"),
        shares=("tolerance", "failure_probability"),
    )
    if not 1 <= config.reach < math.inf:
        raise ValueError(f"Expected `reach` >= 1 and finite, got {config.reach}.")
    bounds = [Bound(name) for name in config.bounds]
    check_choice("bounds", config.bounds, Bound)
    subject = prepare(config)
    batch_size, (images, labels) = subject.batch_size(bounds), subject.tensors()
    radii = grid(subject.epsilon, config.reach, config.points)
    folder = subject.output("measurements")
    make_folder(folder)
    certified, failure = certify_by_each_bound(subject, images, labels, bounds, radii[-1], batch_size)
    attack = Attack(config.pgd_steps, config.restarts, config.seed)
    strength = (attack.steps, attack.restarts, ATTACKED_AT_A_TIME, attack.seed)
    with progress("attacks", len(radii)) as advance:
        broken_at, reached = attack_at_growing_radii(
            subject.model, images, labels, radii, subject.epsilon, *strength, advance
        )
    refuted = refutations(broken_at, certified[-1].radius)
    if refuted:
        raise ArithmeticError(f"Refuted: {refuted[0]}; {len(refuted)} in all. Nothing was written.")
    few, limits = images[: config.convergence_images], (config.tolerance, config.iterations)
    counts = convergence_counts(subject.model, few, subject.epsilon, *limits, batch_size, config.seed)
    convergence = [ConvergenceRow(layer, *each) for layer, taken in counts.items() for each in sorted(taken.items())]
    kept = extremes(certified[-1].radius, certified[-1].correct(labels), config.thumbnails)
    header = Header(
        lipcert_version=__version__,
        checkpoint=str(subject.checkpoint),
        model=subject.said_of_model(),
        data=subject.data,
        epsilon=subject.epsilon,
        bounds=tuple(map(str, bounds)),
        arithmetic=subject.arithmetic.statement,
        failure_probability=failure,
        attack=attack,
        radii=radii,
        convergence=Convergence(len(few), *limits, config.seed),
        thumbnails=tuple(kept),
        seconds=time.perf_counter() - started,
    )
    rows = image_rows(labels, certified, reached, broken_at)
    curves = write_measurement(folder, header, rows, convergence, {index: as_png(images[index]) for index in kept})
    print_measurement(header, curves, convergence, folder)
    return next(row.certified[-1] for row in curves if row.epsilon == subject.epsilon)


def grid(epsilon: float, reach: float, points: int) -> tuple[float, ...]:
    """Return radii up to `reach` times epsilon at even distances, epsilon itself among them, the smallest first."""
    shares = {round(reach * step / points, 12) for step in range(1, points + 1)} | {1.0}
    return tuple(share * epsilon for share in sorted(shares))


def certify_by_each_bound(
    subject: Subject, images: Tensor, labels: Tensor, bounds: list[Bound], farthest: float, batch_size: int
) -> tuple[list[Certificate], FailureProbability]:
    """Return what each bound proves of all images, and with what failure probability all of it together."""
    config = subject.config
    norms = UpperNorms(failure_probability=config.failure_probability)
    network = Float64Model(subject.model, norms)
    certified: list[Certificate] = []
    for bound in bounds:
        certifier = Certifier(network, bound, config.lanczos_steps)
        known = certified[-1].radius if certified else torch.zeros(len(labels), dtype=torch.float64)
        search = (subject.epsilon, known, farthest, config.rounds, batch_size)
        certified.append(certified_radii(certifier, images, labels, *search))
    failure = FailureProbability(norms.failure_probability, norms.bounded, norms.union_failure_probability)
    return certified, failure


def certified_radii(
    certifier: Certifier,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    known: Tensor,
    farthest: float,
    rounds: int,
    batch_size: int,
) -> Certificate:
    """Return the certificate of images (N, C, H, W) at epsilon, its radii larger: each proved itself in a bisection.

    A proof at one radius holds at every smaller one, so `radius >= r` says that the image is certified at r. What is
    refused at one radius is never claimed at larger ones, which only makes the answer smaller.

    Args:
        known: radii that a looser bound proved, (N,) float64.
        farthest: > epsilon; tried second where epsilon is certified, then its multiples by 2.
        rounds: further trials an image at most.
    """
    with progress(f"certified radii, {certifier.bound}", 1 + rounds) as advance:

        def attempt(rows: Tensor, radii: Tensor) -> Tensor:
            proved = certify_batches(certifier, images[rows], labels[rows], radii, batch_size).radius
            advance()
            return proved

        found = certify_batches(certifier, images, labels, epsilon, batch_size)
        advance()
        correct = found.correct(labels)
        proved = torch.where(correct, torch.maximum(known, found.radius), 0)
        refused = torch.full_like(proved, epsilon).masked_fill(found.certified, torch.inf).masked_fill(~correct, 0)
        return replace(found, radius=bisect(attempt, proved, refused, rounds, RESOLUTION * epsilon, farthest))


def extremes(radius: Tensor, correct: Tensor, number: int) -> list[int]:
    """Return the indices of the images classified correctly with the smallest, and with the largest radius."""
    rows = correct.nonzero()[:, 0]
    ordered = rows[radius[rows].argsort(stable=True)].tolist()
    return sorted({*ordered[:number], *(ordered[-number:] if number else [])})


def as_png(image: Tensor) -> bytes:
    """Return an image (C, H, W), pixels in [0, 1], as PNG; other than 1 or 3 channels are averaged."""
    if image.shape[0] not in (1, 3):
        image = image.mean(dim=0, keepdim=True)
    from torchvision.io import encode_png  # only where it is used: it costs a second

    return encode_png((image * 255).round().byte().cpu()).numpy().tobytes()


def image_rows(labels: Tensor, certified: list[Certificate], attacked: Tensor, broken_at: Tensor) -> list[ImageRow]:
    """Return a row an image."""
    last = certified[-1]
    columns = (labels, last.prediction, attacked, broken_at, last.margin, last.lipschitz)
    radii = zip(*(each.radius.tolist() for each in certified), strict=True)
    rows = zip(*(column.tolist() for column in columns), radii, strict=True)
    return [ImageRow(index, *row) for index, row in enumerate(rows)]
