"""One measurement: certify radii by each bound, attack, count power iterations, write."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from lipcert.bounds import Bound, UpperNorms
from lipcert.certificates import Certifier, Float64Model
from lipcert.certification.contents import describe_arithmetic, describe_data, describe_model
from lipcert.certification.memory import choose_batch_size
from lipcert.certification.settings import (
    chosen_data,
    chosen_device,
    chosen_epsilon,
    chosen_images,
    chosen_output,
    listed,
    make_folder,
    required_checkpoint,
)
from lipcert.checkpoints import LoadedNetwork, load_network, read_checkpoint
from lipcert.data import load_images
from lipcert.measurement.attacked import Attacked, attack_at_growing_radii, refutations
from lipcert.measurement.convergence import convergence_counts
from lipcert.measurement.radii import Radii, certified_radii
from lipcert.measurement.report import report
from lipcert.measurement.settings import check_numbers, chosen_bounds, grid
from lipcert.measurement.writing import write_measurement
from lipcert.records import Data, FailureProbability
from lipcert.reporting.measurements import ConvergenceRow, Header, ImageRow
from lipcert.version import __version__

ATTACKED_AT_A_TIME = 100
"""Images of one step of PGD."""


@dataclass(frozen=True)
class Job:
    """A network, the images it is measured on, (N, C, H, W) and (N,) on its device, and how."""

    checkpoint: Path
    network: LoadedNetwork
    data: Data
    images: Tensor
    labels: Tensor
    epsilon: float
    bounds: tuple[Bound, ...]
    radii: tuple[float, ...]
    batch_size: int
    config: DictConfig


def prepare(config: DictConfig) -> Job:
    """Load and check everything the configuration names.

    Raises:
        ValueError, OSError: for settings or files that cannot be.
    """
    check_numbers(config)
    checkpoint, device = required_checkpoint(config), chosen_device(config.device)
    bounds = chosen_bounds(listed(config.bounds))
    description = read_checkpoint(checkpoint).description
    epsilon, name = chosen_epsilon(config.epsilon, description), chosen_data(config, description)
    source = load_images(name, config.data.root)
    split = chosen_images(source, name, config.data.limit_test)
    data = describe_data(name, split, source.num_classes)
    network = load_network(
        checkpoint, data.image_shape, data.num_classes, config.model.name, config.model.activation, config.builder
    )
    network.model.to(device)
    splits = any(bound.splits for bound in bounds)
    batch_size = choose_batch_size(
        network.model, data.image_shape, device, config.batch_size, config.memory_gb, separate=splits
    )
    images, labels = (each.to(device) for each in split[:])
    radii = grid(epsilon, config.reach, config.points)
    return Job(checkpoint, network, data, images, labels, epsilon, bounds, radii, batch_size, config)


def run(config: DictConfig) -> float:
    """Measure, write and print; return the certified accuracy at epsilon by the last bound.

    Raises:
        ArithmeticError: naming an image that is certified and was broken; nothing is written.
        ValueError, OSError: for settings, files or folders that cannot be, before anything is computed.
    """
    started = time.perf_counter()
    job = prepare(config)
    folder = chosen_output(job.checkpoint, config.output, "measurements")
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
        for layer, found in counts.items()
        for taken, images in sorted(found.items())
    ]
    found = write_measurement(folder, header, rows, convergence, {index: job.images[index] for index in kept})
    report(header, found, convergence, folder)
    return next(row.certified[-1] for row in found if row.epsilon == job.epsilon)


def measure_radii(job: Job, advance: Callable[[], object]) -> tuple[list[Radii], FailureProbability]:
    """Return what each bound proves of all images, and with what failure probability all of it together."""
    config = job.config
    norms = UpperNorms(failure_probability=config.failure_probability)
    network = Float64Model(job.network.model, norms)
    known = torch.zeros(len(job.labels), dtype=torch.float64)
    certified = []
    for bound in job.bounds:
        certifier, farthest = Certifier(network, bound, config.lanczos_steps), job.radii[-1]
        certified.append(
            certified_radii(
                certifier, job.images, job.labels, job.epsilon, known, farthest, config.rounds, job.batch_size, advance
            )
        )
        known = certified[-1].radius
    failure = FailureProbability(norms.failure_probability, norms.bounded, norms.union_failure_probability)
    return certified, failure


def attack(job: Job, advance: Callable[[], object]) -> Attacked:
    """Return what PGD found of all images."""
    config = job.config
    return attack_at_growing_radii(
        job.network.model,
        job.images,
        job.labels,
        job.radii,
        job.epsilon,
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
        job.network.model,
        images,
        job.epsilon,
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
        checkpoint=str(job.checkpoint),
        model=asdict(describe_model(job.network)),
        data=asdict(job.data),
        epsilon=job.epsilon,
        bounds=tuple(map(str, job.bounds)),
        arithmetic=describe_arithmetic(job.network.model).statement,
        failure_probability=asdict(failure),
        attack={"steps": config.pgd_steps, "restarts": config.restarts, "seed": config.seed},
        radii=job.radii,
        convergence={
            "images": counted,
            "tolerance": config.tolerance,
            "largest": config.iterations,
            "seed": config.seed,
        },
        thumbnails=tuple(kept),
        seconds=seconds,
    )
