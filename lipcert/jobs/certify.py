"""The job of `lipcert.certify`: certify batch after batch, write the record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lipcert.bounds import RULES
from lipcert.certificates import CROWN_STAGES, STAGES, Cascade, Stage
from lipcert.data.progress import progress
from lipcert.jobs.certify_batch import certify_batch
from lipcert.jobs.preparation import Subject, prepare
from lipcert.jobs.record import (
    describe_arithmetic,
    describe_model,
    failure_probability,
    global_norms,
    stage_tallies,
)
from lipcert.jobs.settings import check_choice, check_failure_probability, chosen_output, listed, make_folder
from lipcert.jobs.tables import print_record
from lipcert.records import FORMAT, JSON_NAME, Arithmetic, Contents, Journal, Model, Record, write_record
from lipcert.version import __version__


@dataclass(frozen=True)
class Job:
    """Everything the rows of a record depend on, and how they are computed.

    Attributes:
        subject: network, images and radii.
        model, arithmetic: what the record says of the network.
        cascade: of the network.
        batch_size: images bounded at a time.
        failure_probability: of each norm.
        clip_input: the adversary only uses pixels in [0, 1].
    """

    subject: Subject
    model: Model
    arithmetic: Arithmetic
    cascade: Cascade
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
            "data": asdict(self.subject.data),
            "arithmetic": asdict(self.arithmetic),
            "epsilons": list(self.subject.epsilons),
            "clip_input": self.clip_input,
            "failure_probability": self.failure_probability,
            "stages": [{**asdict(stage), "bound": str(stage.bound)} for stage in self.cascade.stages],
        }


def run(config: DictConfig) -> float:
    """Certify the test images, write the record, print it; return the certified accuracy at the largest epsilon.

    Raises:
        ValueError, OSError: for settings, files or folders that cannot be, before anything is computed.
    """
    check_failure_probability(config.failure_probability)
    stages = chosen_stages(listed(config.stages), config.exhaustive)
    folder = chosen_output(config, "certificates")
    check_unfinished(folder, config.overwrite)
    job = make_job(config, stages)
    make_folder(folder)
    journal = Journal(folder, job.header, restart=config.overwrite)
    try:
        certify_rest(job, journal)
        record = finish(job, journal, folder)
        journal.remove()
    finally:
        journal.close()
    print_record(record, folder)
    return max(record.totals, key=lambda totals: totals.epsilon).certified_accuracy


def chosen_stages(names: Sequence[str] | None, exhaustive: bool = False) -> tuple[Stage, ...]:
    """Return the default cascade, or the stages that are named: its own and backward linear bounds.

    `exhaustive` ones enter every image that is left, however little is proved of it, and never give up.

    Raises:
        ValueError: for an unknown name, a name twice or none at all.
    """
    known = {stage.name: stage for stage in (*STAGES, *CROWN_STAGES)}
    if names is None:
        names = [stage.name for stage in STAGES]
    check_choice("stages", names, known)
    stages = tuple(known[name] for name in names)
    return tuple(replace(stage, within=0.0, trial=None) for stage in stages) if exhaustive else stages


def check_unfinished(folder: Path, overwrite: bool) -> None:
    """Raise FileExistsError where a finished record would be replaced unasked."""
    if (folder / JSON_NAME).exists() and not overwrite:
        raise FileExistsError(
            f"{folder} already holds a record ({JSON_NAME}); choose another output=DIR, "
            "or type overwrite=true to replace it."
        )


def make_job(config: DictConfig, stages: Sequence[Stage]) -> Job:
    """Load what the settings name, and choose the size of a batch."""
    subject = prepare(config, most_epsilons=None)
    return Job(
        subject=subject,
        model=describe_model(subject.network),
        arithmetic=describe_arithmetic(subject.model),
        cascade=Cascade(subject.model, stages, config.failure_probability, config.clip_input),
        batch_size=subject.batch_size(config, separate=any(RULES[stage.bound].across for stage in stages)),
        failure_probability=config.failure_probability,
        clip_input=config.clip_input,
    )


def certify_rest(job: Job, journal: Journal) -> None:
    """Certify the images that the journal has not, batch after batch; show progress on a terminal."""
    subject, total = job.subject, len(job.subject.split)
    with progress("certifying") as advance:
        advance(journal.images_done, total)
        for first in range(journal.images_done, total, job.batch_size):
            images, labels = (each.to(subject.device) for each in subject.split[first : first + job.batch_size])
            batch = certify_batch(job.cascade, images, labels, first, subject.epsilons)
            global_norms([batch])  # raises at the first batch rather than after the last
            journal.append(batch)
            advance(journal.images_done, total)


def finish(job: Job, journal: Journal, folder: Path) -> Record:
    """Write the record of all batches; return it."""
    contents = Contents(
        lipcert_version=__version__,
        checkpoint=str(job.subject.checkpoint),
        model=job.model,
        data=job.subject.data,
        epsilons=job.subject.epsilons,
        clip_input=job.clip_input,
        arithmetic=job.arithmetic,
        failure_probability=failure_probability(journal.batches, job.failure_probability),
        stages=stage_tallies(journal.batches, job.cascade.stages),
        norms=global_norms(journal.batches),
        seconds=sum(batch.seconds for batch in journal.batches),
    )
    return write_record(folder, contents, [row for batch in journal.batches for row in batch.rows])
