"""One certification: check, certify batch after batch, write the record."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import Progress

from lipcert.certificates.cascade import Cascade, Stage
from lipcert.certification.batches import certify_batch
from lipcert.certification.contents import (
    describe_arithmetic,
    describe_data,
    describe_model,
    failure_probability,
    global_norms,
    stage_tallies,
)
from lipcert.certification.memory import choose_batch_size
from lipcert.certification.report import report
from lipcert.certification.settings import (
    check_failure_probability,
    check_unfinished,
    chosen_data,
    chosen_device,
    chosen_epsilons,
    chosen_images,
    chosen_output,
    chosen_stages,
    listed,
    make_folder,
    required_checkpoint,
)
from lipcert.checkpoints import load_network, read_checkpoint
from lipcert.data import Split, load_images
from lipcert.records import FORMAT, Arithmetic, Contents, Data, Journal, Model, Record, write_record
from lipcert.system.plugins import load_plugins
from lipcert.version import __version__


@dataclass(frozen=True)
class Job:
    """Everything the rows depend on, and how they are computed.

    Attributes:
        checkpoint: the network's file.
        split: the images.
        model, data, arithmetic: what the record says of them.
        epsilons: l2 radii, in the order given.
        stages: of the cascade.
        cascade: of the network.
        device: of the network.
        batch_size: images bounded at a time.
        failure_probability: of each norm.
        clip_input: the adversary only uses pixels in [0, 1].
    """

    checkpoint: Path
    split: Split
    model: Model
    data: Data
    arithmetic: Arithmetic
    epsilons: tuple[float, ...]
    stages: tuple[Stage, ...]
    cascade: Cascade
    device: torch.device
    batch_size: int
    failure_probability: float
    clip_input: bool

    @property
    def header(self) -> dict[str, Any]:
        """Everything the rows depend on, as JSON values."""
        return {
            "format": FORMAT,
            "lipcert_version": __version__,
            "model": asdict(self.model),
            "data": asdict(self.data),
            "arithmetic": asdict(self.arithmetic),
            "epsilons": list(self.epsilons),
            "clip_input": self.clip_input,
            "failure_probability": self.failure_probability,
            "stages": [{**asdict(stage), "bound": str(stage.bound)} for stage in self.stages],
        }


def run(config: DictConfig) -> float:
    """Certify the test images, write the record, print it; return the certified accuracy at the largest epsilon.

    Raises:
        ValueError, OSError: for settings, files or folders that cannot be, before anything is computed.
    """
    load_plugins(config.plugins)
    checkpoint = required_checkpoint(config)
    folder = chosen_output(checkpoint, config.output)
    check_unfinished(folder, config.overwrite)
    job = prepare(config, checkpoint)
    make_folder(folder)
    journal = Journal(folder, job.header, restart=config.overwrite)
    try:
        certify_rest(job, journal)
        record = finish(job, journal, folder)
        journal.remove()
    finally:
        journal.close()
    report(record, folder)
    return max(record.totals, key=lambda totals: totals.epsilon).certified_accuracy


def prepare(config: DictConfig, checkpoint: Path) -> Job:
    """Load and check everything the configuration names."""
    check_failure_probability(config.failure_probability)
    stages, device = chosen_stages(listed(config.stages), config.exhaustive), chosen_device(config.device)
    description = read_checkpoint(checkpoint).description
    epsilons, name = chosen_epsilons(config.epsilon, description), chosen_data(config, description)
    images = load_images(name, config.data.root)
    split = chosen_images(images, name, config.data.limit_test)
    data = describe_data(name, split, images.num_classes)
    network = load_network(
        checkpoint,
        data.image_shape,
        data.num_classes,
        config.model.name,
        config.model.activation,
        config.builder,
    )
    network.model.to(device)
    return Job(
        checkpoint=checkpoint,
        split=split,
        model=describe_model(network),
        data=data,
        arithmetic=describe_arithmetic(network.model),
        epsilons=epsilons,
        stages=stages,
        cascade=Cascade(network.model, stages, config.failure_probability, config.clip_input),
        device=device,
        batch_size=choose_batch_size(
            network.model,
            data.image_shape,
            device,
            config.batch_size,
            config.memory_gb,
            separate=any(stage.bound.splits for stage in stages),
        ),
        failure_probability=config.failure_probability,
        clip_input=config.clip_input,
    )


def certify_rest(job: Job, journal: Journal) -> None:
    """Certify the images that the journal has not, batch after batch; show progress on a terminal."""
    total = len(job.split)
    console = Console(stderr=True)
    with Progress(console=console, disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task("certifying", total=total, completed=journal.images_done)
        for first in range(journal.images_done, total, job.batch_size):
            images, labels = job.split[first : first + job.batch_size]
            batch = certify_batch(job.cascade, images.to(job.device), labels.to(job.device), first, job.epsilons)
            global_norms([batch])  # raises at the first batch rather than after the last
            journal.append(batch)
            progress.advance(task, batch.count)


def finish(job: Job, journal: Journal, folder: Path) -> Record:
    """Write the record of all batches; return it."""
    contents = Contents(
        lipcert_version=__version__,
        checkpoint=str(job.checkpoint),
        model=job.model,
        data=job.data,
        epsilons=job.epsilons,
        clip_input=job.clip_input,
        arithmetic=job.arithmetic,
        failure_probability=failure_probability(journal.batches, job.failure_probability),
        stages=stage_tallies(journal.batches, job.stages),
        norms=global_norms(journal.batches),
        seconds=sum(batch.seconds for batch in journal.batches),
    )
    return write_record(folder, contents, [row for batch in journal.batches for row in batch.rows])
