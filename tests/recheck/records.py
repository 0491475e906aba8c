"""Honest records of a nearest-mean classifier of digits, and ways to falsify them with all digests redone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from lipcert.certificates import STAGES, Cascade
from lipcert.data import load_images
from lipcert.jobs.certify import certify_batch
from lipcert.records import (
    Arithmetic,
    Contents,
    Data,
    FailureProbability,
    Model,
    NormBracket,
    Row,
    StageTally,
    write_record,
)
from lipcert.records.fingerprint import data_sha256, model_sha256
from lipcert.system.execution import present_execution

COUNT = 8
EPSILONS = (0.1, 0.6)
TIGHT = next(stage for stage in STAGES if stage.name == "tight")
BUILDER = "tests.recheck.records:make"


def make() -> nn.Sequential:
    """Return the untrained network: pixels pass a ReLU, then distances to ten means are compared."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def nearest_mean() -> nn.Sequential:
    """Return the network with logits 2 mean·x - |mean|², so that the nearest class mean of the digits wins."""
    train = load_images("digits").train
    means = torch.stack([train.images[train.labels == label].flatten(1).mean(dim=0) for label in range(10)])
    model = make()
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(64))
        model[1].bias.zero_()
        model[3].weight.copy_(2 * means)
        model[3].bias.copy_(-means.square().sum(dim=1))
    return model.eval()


def data() -> tuple[Tensor, Tensor]:
    """Return the images and labels the records are about."""
    return load_images("digits").test.first(COUNT)[:]


def honest_rows(model: nn.Module, clip_input: bool = False) -> list[Row]:
    """Return rows as stage `tight` certifies them, sorted as a record holds them."""
    rows = certify_batch(Cascade(model, [TIGHT], clip_input=clip_input), *data(), 0, EPSILONS).rows
    return sorted(rows, key=lambda row: (row.epsilon, row.index))


@dataclass(frozen=True)
class Written:
    """Paths of a record and of its network."""

    certificate: Path
    checkpoint: Path

    def words(self, *more: str) -> list[str]:
        """Return the command line that checks it."""
        return [str(self.certificate), "--checkpoint", str(self.checkpoint), "--builder", BUILDER, *more]


def write(
    folder: Path,
    model: nn.Module,
    rows: list[Row],
    change: Callable[[Contents], Contents] = lambda contents: contents,
    clip_input: bool = False,
) -> Written:
    """Write a checkpoint and a record of `rows`; totals, tallies and digests follow from what is written."""
    checkpoint = folder / "network.pt"
    torch.save(model.state_dict(), checkpoint)
    certified = {row.index for row in rows if row.certified}
    entered = len(rows) - sum(row.certified for row in rows if row.epsilon == EPSILONS[1])
    contents = Contents(
        lipcert_version="0.1.0",
        checkpoint=str(checkpoint),
        model=Model(model_sha256(model), "float32", {"builder": BUILDER}),
        data=Data("digits", "test", COUNT, (1, 8, 8), 10, data_sha256(*data())),
        epsilons=EPSILONS,
        clip_input=clip_input,
        arithmetic=Arithmetic.of("float32", 2.0**-24),
        execution=present_execution(torch.device("cpu")),
        failure_probability=FailureProbability(1e-9, 2, 2e-9),
        stages=(StageTally("tight", "tight", 30, entered, len(certified), 1.0),),
        norms={"2": NormBracket(1 - 1e-9, 1 + 1e-9)},
        seconds=1.0,
    )
    write_record(folder, change(contents), rows)
    return Written(folder / "certificate.json", checkpoint)


def changed(rows: list[Row], number: int, **values: object) -> list[Row]:
    """Return rows, one of them altered."""
    return [replace(row, **values) if position == number else row for position, row in enumerate(rows)]  # type: ignore[arg-type]
