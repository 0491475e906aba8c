"""The job of `lipcert.certify`: certify batch after batch at every epsilon, write the record."""

import copy
import math
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from lipcert.certificates import OTHER_STAGES, STAGES, Cascade, Certificate, Stage
from lipcert.crown import has_steps
from lipcert.graph import compile_graph
from lipcert.jobs.preparation import Subject, check_choice, check_numbers, make_folder, prepare
from lipcert.jobs.tables import print_record
from lipcert.records import (
    FORMAT,
    JSON_NAME,
    Batch,
    Contents,
    FailureProbability,
    Journal,
    NormBracket,
    Record,
    Row,
    StageTally,
    StageWork,
    write_record,
)
from lipcert.system.execution import present_execution
from lipcert.system.plugins import plugins_sha256
from lipcert.system.progress import progress
from lipcert.version import __version__


def run(config: DictConfig) -> float:
    """Certify the test images, write the record, print it; return the certified accuracy at the largest epsilon.

    Raises:
        ValueError, OSError: for settings, files or folders that cannot be, before anything is computed.
    """
    check_numbers(config, shares=["failure_probability"])
    stages = chosen_stages(config.stages, config.exhaustive)
    subject = prepare(config, most_epsilons=None)
    if config.stages is not None:
        refuse_stages(stages, subject)
    folder = subject.output("certificates")
    if (folder / JSON_NAME).exists() and not config.overwrite:
        raise FileExistsError(
            f"{folder} already holds a record ({JSON_NAME}); choose another output=DIR, "
            "or type overwrite=true to replace it."
        )
    cascade = Cascade(subject.model, stages, config.failure_probability, config.clip_input)
    batch_size = subject.batch_size(stage.bound for stage in stages)
    make_folder(folder)
    with closing(Journal(folder, header(subject, stages), restart=config.overwrite)) as journal:
        certify_rest(subject, cascade, batch_size, journal)
        record = finish(subject, stages, journal, folder)
        journal.remove()
    print_record(record, folder)
    return max(record.totals, key=lambda totals: totals.epsilon).certified_accuracy


def chosen_stages(names: Sequence[str] | None, exhaustive: bool = False) -> tuple[Stage, ...]:
    """Return the default cascade, or the stages that are named: its own and others.

    `exhaustive` ones try every image that is left, however little is proved of it and however many classes are open.

    Raises:
        ValueError: for an unknown name, a name twice or none at all.
    """
    known = {stage.name: stage for stage in (*STAGES, *OTHER_STAGES)}
    if names is None:
        names = [stage.name for stage in STAGES]
    check_choice("stages", names, known)
    stages = tuple(known[name] for name in names)
    if not exhaustive:
        return stages
    efforts = (stage.effort and replace(stage.effort, classes=None) for stage in stages)
    return tuple(replace(stage, within=0.0, effort=effort) for stage, effort in zip(stages, efforts, strict=True))


def refuse_stages(stages: Sequence[Stage], subject: Subject) -> None:
    """Refuse stages of backward bounds, named for a network that has none.

    Raises:
        ValueError: naming them.
    """
    backward = [stage.name for stage in stages if stage.effort is not None]
    if backward and not has_steps(compile_graph(subject.model, subject.data.image_shape)):
        raise ValueError(
            f"stages={','.join(backward)}: an activation of this network has no backward bounds, which follow its "
            "`steps`. Leave these stages out."
        )


def fixed_contents(subject: Subject) -> dict[str, Any]:
    """Return the fields of `Contents` that rows depend on and that no batch changes."""
    return {
        "lipcert_version": __version__,
        "model": subject.said_of_model(),
        "data": subject.data,
        "arithmetic": subject.arithmetic,
        "epsilons": subject.epsilons,
        "clip_input": subject.config.clip_input,
    }


def header(subject: Subject, stages: Sequence[Stage]) -> dict[str, Any]:
    """Return everything the rows depend on."""
    return {
        "format": FORMAT,
        "plugins": plugins_sha256(subject.config.plugins),
        **fixed_contents(subject),
        "failure_probability": subject.config.failure_probability,
        "stages": stages,
    }


def certify_rest(subject: Subject, cascade: Cascade, batch_size: int, journal: Journal) -> None:
    """Certify the images that the journal has not, batch after batch; show progress on a terminal.

    Raises:
        ArithmeticError: at the first batch, naming a layer whose norm has no finite bound.
    """
    total = len(subject.split)
    with progress("certifying", total) as advance:
        advance(journal.images_done)
        for first in range(journal.images_done, total, batch_size):
            images, labels = (each.to(subject.device) for each in subject.split[first : first + batch_size])
            batch = certify_batch(cascade, images, labels, first, subject.epsilons)
            for name, bracket in batch.norms.items():
                if not (math.isfinite(bracket.lower) and math.isfinite(bracket.upper)):
                    raise ArithmeticError(f"The norm of layer {name!r} has no finite bound; check its weights.")
            journal.append(batch)
            advance(batch.count)


def certify_batch(cascade: Cascade, images: Tensor, labels: Tensor, first: int, epsilons: Sequence[float]) -> Batch:
    """Certify images (B, C, H, W) and labels (B,), on the device of the cascade, at each epsilon, see `Cascade.each`.

    `first`: index of the first image in its split.
    """
    started, bounded, before = time.perf_counter(), cascade.norms_bounded, copy.deepcopy(cascade.tallies)
    names = [stage.name for stage in cascade.stages]
    found = cascade.each(images, labels, sorted(epsilons, reverse=True))
    indices = torch.arange(first, first + len(labels))
    rows = [row for epsilon, each in found.items() for row in certificate_rows(each, indices, labels, epsilon, names)]
    return Batch(
        count=len(labels),
        rows=tuple(rows),
        norms_bounded=cascade.norms_bounded - bounded,
        stages=tuple(
            StageWork(tally.entered - old.entered, tally.certified - old.certified, tally.seconds - old.seconds)
            for tally, old in zip(cascade.tallies, before, strict=True)
        ),
        norms={name: NormBracket(*bracket) for name, bracket in cascade.norm_brackets().items()},
        seconds=time.perf_counter() - started,
    )


def certificate_rows(
    certificate: Certificate, indices: Tensor, labels: Tensor, epsilon: float, names: Sequence[str]
) -> list[Row]:
    """Return a row an image, with the names of the stages; NaN becomes the worst value."""
    columns = (
        indices.tolist(),
        labels.tolist(),
        certificate.prediction.tolist(),
        [epsilon] * len(labels),
        certificate.margin.nan_to_num(-math.inf, math.inf, -math.inf).tolist(),
        certificate.certified.tolist(),
        certificate.lipschitz.nan_to_num(math.inf, math.inf).tolist(),
        certificate.radius.tolist(),
        certificate.rounding.nan_to_num(math.inf, math.inf).tolist(),
        [names[stage] if stage >= 0 else "" for stage in certificate.stage.tolist()],
    )
    return [Row(*row) for row in zip(*columns, strict=True)]


def finish(subject: Subject, stages: Sequence[Stage], journal: Journal, folder: Path) -> Record:
    """Write the record of all batches, at least one, whose failure probability is the union bound; return it."""
    batches, per_norm = journal.batches, subject.config.failure_probability
    norms = sum(batch.norms_bounded for batch in batches)
    work = zip(*(batch.stages for batch in batches), strict=True)
    contents = Contents(
        **fixed_contents(subject),
        checkpoint=str(subject.checkpoint),
        execution=present_execution(subject.device),
        failure_probability=FailureProbability(per_norm, norms, min(1.0, norms * per_norm)),
        stages=tuple(
            StageTally(stage.name, stage.method, stage.lanczos_steps, *map(sum, zip(*map(astuple, done), strict=True)))
            for stage, done in zip(stages, work, strict=True)
        ),
        norms=batches[-1].norms,
        seconds=sum(batch.seconds for batch in batches),
    )
    return write_record(folder, contents, [row for batch in batches for row in batch.rows])
