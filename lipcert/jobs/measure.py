"""The job of `lipcert.measure`: certify radii by each bound, attack, count power iterations, write."""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from lipcert.attacks.growing_radii import Attacked, attack_at_growing_radii, refutations
from lipcert.bounds import RULES, Bound
from lipcert.certificates import Certifier, Float64Model
from lipcert.jobs.power_iterations import convergence_counts
from lipcert.jobs.preparation import Subject, prepare
from lipcert.jobs.radii import Radii, certified_radii
from lipcert.jobs.record import describe_arithmetic, describe_model
from lipcert.jobs.settings import (
    check_at_least,
    check_choice,
    check_failure_probability,
    chosen_output,
    make_folder,
)
from lipcert.jobs.tables import print_measurement
from lipcert.norms import UpperNorms
from lipcert.records import FailureProbability
from lipcert.records.measurement import Attack, Convergence, ConvergenceRow, Header, ImageRow
from lipcert.records.measurement_files import write_measurement
from lipcert.version import __version__

ATTACKED_AT_A_TIME = 100
"""Images of one step of PGD."""

SMALLEST = {
    "lanczos_steps": 1,
    "points": 1,
    "rounds": 0,
    "pgd_steps": 1,
    "restarts": 1,
    "convergence_images": 0,
    "iterations": 1,
    "thumbnails": 0,
    "seed": 0,
}
"""Smallest values of settings that are integers."""


@dataclass(frozen=True)
class Job:
    """A network, the images that it is measured on, (N, C, H, W) and (N,) on its device, and how.

    Attributes:
        subject: network, test images and epsilon.
        images, labels: of the subject.
        bounds: by which radii are certified, one after the other.
        radii: at which PGD attacks, the smallest first.
        batch_size: images bounded at a time.
        config: all settings.
    """

    subject: Subject
    images: Tensor
    labels: Tensor
    bounds: tuple[Bound, ...]
    radii: tuple[float, ...]
    batch_size: int
    config: DictConfig


def make_job(config: DictConfig) -> Job:
    """Load and check everything that the settings name.

    Raises:
        ValueError, OSError: for settings or files that cannot be.
    """
    check_at_least(config, SMALLEST)
    if not 1 <= config.reach < math.inf:
        raise ValueError(f"Expected `reach` >= 1 and finite, got {config.reach}.")
    if not 0 < config.tolerance < 1:
        raise ValueError(f"Expected `tolerance` in (0, 1), got {config.tolerance}.")
    check_failure_probability(config.failure_probability)
    bounds = tuple(Bound(name) for name in config.bounds)
    check_choice("bounds", [str(bound) for bound in bounds], Bound)
    subject = prepare(config)
    size = subject.batch_size(config, separate=any(RULES[bound].across for bound in bounds))
    return Job(subject, *subject.tensors(), bounds, grid(subject.epsilon, config.reach, config.points), size, config)


def grid(epsilon: float, reach: float, points: int) -> tuple[float, ...]:
    """Return radii up to `reach` times epsilon at even distances, epsilon itself among them, the smallest first."""
    shares = {round(reach * step / points, 12) for step in range(1, points + 1)} | {1.0}
    return tuple(share * epsilon for share in sorted(shares))


def run(config: DictConfig) -> float:
    """Measure, write and print; return the certified accuracy at epsilon by the last bound.

    Raises:
        ArithmeticError: naming an image that is certified and was broken; nothing is written.
        ValueError, OSError: for settings, files or folders that cannot be, before anything is computed.
    """
    started = time.perf_counter()
    job = make_job(config)
    folder = chosen_output(config, "measurements")
    make_folder(folder)
    few = job.images[: config.convergence_images]
    console = Console(stderr=True)
    with Progress(console=console, disable=not sys.stderr.isatty(), transient=True) as progress:
        total = len(job.bounds) * (1 + config.rounds) + len(job.radii) + len(few.split(job.batch_size))
        task = progress.add_task("certified radii", total=total)
        certified, failure = measure_radii(job, lambda: progress.advance(task))
        progress.update(task, description="attacks", completed=len(job.bounds) * (1 + config.rounds))
        attacked = attack(job, lambda: progress.advance(task))
        radius = torch.stack([each.radius for each in certified]).amax(dim=0)
        refuse(refutations(attacked.broken_at, radius, range(len(radius))))
        progress.update(task, description="power iterations")
        counts = count_iterations(job, few, lambda: progress.advance(task))
    kept = extremes(certified[-1].radius, certified[-1].certificate.correct(job.labels), config.thumbnails)
    header = describe(job, failure, kept, len(few), time.perf_counter() - started)
    rows = image_rows(job, certified, attacked)
    convergence = [
        ConvergenceRow(layer, taken, images)
        for layer, images_by_count in counts.items()
        for taken, images in sorted(images_by_count.items())
    ]
    curves = write_measurement(folder, header, rows, convergence, {index: job.images[index] for index in kept})
    print_measurement(header, curves, convergence, folder)
    return next(row.certified[-1] for row in curves if row.epsilon == job.subject.epsilon)


def measure_radii(job: Job, advance: Callable[[], object]) -> tuple[list[Radii], FailureProbability]:
    """Return what each bound proves of all images, and with what failure probability all of it together."""
    norms = UpperNorms(failure_probability=job.config.failure_probability)
    network = Float64Model(job.subject.model, norms)
    known = torch.zeros(len(job.labels), dtype=torch.float64)
    certified = []
    for bound in job.bounds:
        radii = certified_radii(
            Certifier(network, bound, job.config.lanczos_steps),
            job.images,
            job.labels,
            job.subject.epsilon,
            known,
            farthest=job.radii[-1],
            rounds=job.config.rounds,
            batch_size=job.batch_size,
            advance=advance,
        )
        certified.append(radii)
        known = radii.radius
    failure = FailureProbability(norms.failure_probability, norms.bounded, norms.union_failure_probability)
    return certified, failure


def attack(job: Job, advance: Callable[[], object]) -> Attacked:
    """Return the outcome of PGD on all images."""
    config = job.config
    return attack_at_growing_radii(
        job.subject.model,
        job.images,
        job.labels,
        job.radii,
        job.subject.epsilon,
        config.pgd_steps,
        config.restarts,
        ATTACKED_AT_A_TIME,
        config.seed,
        advance,
    )


def count_iterations(job: Job, images: Tensor, advance: Callable[[], object]) -> dict[str, Counter[int]]:
    """Return how many of some images take so many power iterations, by layer."""
    if not len(images):
        return {}
    config = job.config
    return convergence_counts(
        job.subject.model,
        images,
        job.subject.epsilon,
        config.tolerance,
        config.iterations,
        job.batch_size,
        config.seed,
        advance,
    )


def refuse(sentences: list[str]) -> None:
    """Raise ArithmeticError with the first of some refutations, if there are any."""
    if sentences:
        raise ArithmeticError(f"Refuted: {sentences[0]}; {len(sentences)} in all. Nothing was written.")


def extremes(radius: Tensor, correct: Tensor, count: int) -> list[int]:
    """Return the indices of the images classified correctly with the smallest, and with the largest radius."""
    rows = correct.nonzero()[:, 0]
    ordered = rows[radius[rows].argsort(stable=True)].tolist()
    return sorted({*ordered[:count], *(ordered[-count:] if count else [])})


def image_rows(job: Job, certified: list[Radii], attacked: Attacked) -> list[ImageRow]:
    """Return a row an image."""
    last = certified[-1].certificate
    columns = (
        job.labels.tolist(),
        last.prediction.tolist(),
        attacked.prediction.tolist(),
        attacked.broken_at.tolist(),
        last.margin.tolist(),
        last.lipschitz.tolist(),
        zip(*(each.radius.tolist() for each in certified), strict=True),
    )
    return [ImageRow(index, *row) for index, row in enumerate(zip(*columns, strict=True))]


def describe(job: Job, failure: FailureProbability, kept: list[int], counted: int, seconds: float) -> Header:
    """Return what the measurement says of itself."""
    config = job.config
    return Header(
        lipcert_version=__version__,
        checkpoint=str(job.subject.checkpoint),
        model=describe_model(job.subject.network),
        data=job.subject.data,
        epsilon=job.subject.epsilon,
        bounds=tuple(map(str, job.bounds)),
        arithmetic=describe_arithmetic(job.subject.model).statement,
        failure_probability=failure,
        attack=Attack(config.pgd_steps, config.restarts, config.seed),
        radii=job.radii,
        convergence=Convergence(counted, config.tolerance, config.iterations, config.seed),
        thumbnails=tuple(kept),
        seconds=seconds,
    )
