"""Vectors of training images in a run: two processes, memory announced and refused, every layer of 8C2F local."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from lipcert.bounds import Bound, PowerNorms, WarmStart
from lipcert.bounds.linear_map import LinearMap
from lipcert.bounds.warm_start import KINDS
from lipcert.losses import BCP
from lipcert.nn import build
from lipcert.training.callbacks import ScheduleCallback
from lipcert.training.module import RobustClassifier
from lipcert.training.schedules import Schedule
from lipcert.training.warm_start import announce
from tests.commands import train_each
from tests.training.fits import classifier, digits


class Vectors(pl.Callback):
    """Writes the vectors that a process holds before and after they are merged, and which images it visited."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.numbers: list[Tensor] = []

    def _write(self, name: str, rank: int, module: pl.LightningModule) -> None:
        content = {"visited": torch.cat(self.numbers), **module.norms.warm_start.state()["vectors"]}
        torch.save(content, self.folder / f"{name}_{rank}.pt")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.numbers.append(batch[2])

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write("before", trainer.global_rank, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write("after", trainer.global_rank, pl_module)


def test_two_processes_end_an_epoch_with_the_same_vectors(tmp_path: Path) -> None:
    """Every image's vector is the one that the process found which visited it; the checkpoint holds them all."""
    schedule = Schedule(1, 0, 0, 1, 1e-3, 1e-3, 0.4)
    module = classifier(warm_start=WarmStart("per_image", 200), schedule=schedule, economy=0)
    fitted = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_spawn",
        max_epochs=1,
        callbacks=[Vectors(tmp_path), ScheduleCallback()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    fitted.fit(module, digits(validation=0))
    before, after = ([torch.load(tmp_path / f"{name}_{rank}.pt") for rank in range(2)] for name in ("before", "after"))
    visited = [each.pop("visited") for each in before]
    assert [len(each) for each in visited] == [100, 100]
    assert sorted(torch.cat(visited).tolist()) == list(range(200))
    assert before[0].keys() == {"1", "3", "6"}
    for name in before[0]:
        for rank in range(2):
            assert not before[rank][name][visited[1 - rank]].any(), "nothing is known of the other's images"
            assert torch.equal(after[0][name][visited[rank]], before[rank][name][visited[rank]])
        assert torch.equal(after[0][name], after[1][name])
        assert after[0][name].any(dim=1).all()


@pytest.mark.parametrize("ranks", [2, 3])
def test_an_image_of_several_processes(ranks: int) -> None:
    """A sampler that pads shows an image twice: the lowest rank speaks for it; an image nobody saw stays as it was."""
    parts = []
    visited = [[0, 1], [1, 2], [2, 0]][:ranks]
    for rank in range(ranks):
        warm_start = WarmStart("per_image", 4)
        warm_start.reserve({"map": _Map((2,), (3,))})
        seen = torch.tensor(visited[rank])
        warm_start.keep("map", seen, torch.zeros(2, 3), torch.tensor([[rank + 1.0, 1]]).expand(2, 2))
        parts.append(warm_start)
    found = [each.state()["vectors"]["map"].clone() for each in parts]
    flags = torch.zeros(ranks, 4)
    for rank in range(ranks):
        flags[rank, visited[rank]] = 1
    expected = torch.stack([found[0][0], found[0][1], found[1][2], torch.zeros(2)])
    own = [[0, 1], [2], []]
    contributions = torch.stack([torch.zeros(4, 2) for _ in range(ranks)])
    for rank in range(ranks):
        contributions[rank, own[rank]] = found[rank][own[rank]]
    for rank, each in enumerate(parts):
        handed: list[Tensor] = []

        def summed(values: Tensor, handed: list[Tensor] = handed) -> Tensor:
            handed.append(values)
            return flags if values.shape == (ranks, 4) else contributions.sum(dim=0)

        each.merge(summed, rank, ranks)
        assert torch.equal(handed[0][rank], flags[rank])
        assert torch.equal(handed[1], contributions[rank])
        torch.testing.assert_close(each.state()["vectors"]["map"], expected, rtol=0, atol=0)


class _Map:
    """As much of a linear map as memory asks for."""

    trivial = False

    def __init__(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> None:
        self.input_shape, self.output_shape = input_shape, output_shape


def test_batches_without_numbers_are_refused(tmp_path: Path) -> None:
    batch = digits().train[:4]
    with pytest.raises(ValueError, match=r"warm_start=output_side needs training batches .* set warm_start=shared"):
        classifier(warm_start=WarmStart("output_side", 200)).training_step(batch, 0)
    with torch.no_grad():
        objective = classifier().objective(*batch)
    assert objective.loss.isfinite()


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("shared", "warm_start=shared: nothing is kept for an image."),
        (
            "output_side",
            "200 bytes an image, 0.024 GB for 60,000 images and 2 process(es), in every checkpoint 0.012 GB",
        ),
        (
            "per_image",
            "1,792 bytes an image, 0.215 GB for 60,000 images and 2 process(es), in every checkpoint 0.108 GB",
        ),
    ],
)
def test_memory_is_announced(kind: str, said: str, caplog: pytest.LogCaptureFixture) -> None:
    """The small net on digits: inputs of 64, 256 and 128 entries in float32, 100 outputs in half precision."""
    module = classifier(warm_start=WarmStart(kind, 60_000))
    if kind == "per_image":
        assert module.norms.warm_start.kept == {"1": 64, "3": 256, "6": 128}
    with caplog.at_level(logging.INFO, "lipcert"):
        announce(module.norms.warm_start, 2)
    assert said in caplog.text
    assert ("share the vectors of layers 1, 3." in caplog.text) == (kind == "output_side")


def test_memory_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = classifier(warm_start=WarmStart("per_image", 10**9))
    with pytest.raises(ValueError, match=r"needs .* GB of host memory .* GB are free; set warm_start=output_side"):
        announce(module.norms.warm_start, 1)
    monkeypatch.setattr("lipcert.training.warm_start.free_memory", lambda: None)  # a system that does not tell
    announce(module.norms.warm_start, 1)


def test_a_run_says_what_it_keeps(tmp_path: Path) -> None:
    arguments = [
        "warm_start=output_side",
        "bound=tight",
        "schedule.epochs=1",
        "schedule.ramp_epochs=0",
        "data.limit_train=50",
        "data.limit_test=5",
        "evaluation.bounds=[]",
        "evaluation.pgd_steps=0",
        "callbacks=quiet",
        f"hydra.run.dir={tmp_path / 'run'}",
    ]
    (done,) = train_each([arguments], tmp_path)
    assert done["exit"] == 0, done["stderr"]
    assert "warm_start=output_side: 200 bytes an image" in done["stdout"] + done["stderr"]
    content = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["warm_start"]
    assert content["name"] == "output_side"
    assert content["vectors"]["6"].dtype == torch.float16
    assert content["vectors"]["6"].shape == (50, 100)


class Asked(PowerNorms):
    """Estimates that note which maps were masked, and on which sides."""

    def __init__(self, warm_start: WarmStart) -> None:
        super().__init__(1, "float32", warm_start)
        self.sides: dict[str, tuple[bool, bool]] = {}

    def masked(
        self,
        name: str,
        linear_map: LinearMap,
        rows: Tensor | None,
        columns: Tensor | None,
        like: Tensor,
        images: Tensor | None = None,
    ) -> Tensor:
        self.sides[name] = rows is not None and rows.shape[0] == 2, columns is not None and columns.shape[0] == 2
        return super().masked(name, linear_map, rows, columns, like, images)


@pytest.mark.parametrize("kind", KINDS)
def test_tiny_imagenet_is_local_in_all_layers(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published code had memory for 5 of 9 layers of 8C2F; here each norm is masked on both sides."""
    monkeypatch.setattr("lipcert.training.module.PowerNorms", lambda _, __, warm_start: Asked(warm_start))
    torch.manual_seed(0)
    model = build("8c2f", (3, 64, 64), 200)
    optimizer = partial(torch.optim.Adam, lr=1e-3)
    schedule = Schedule(1, 0, 0, 1, 1e-3, 1e-3, 0.16)
    module = RobustClassifier(
        model, BCP(), optimizer, schedule, (3, 64, 64), 200, 0.14, Bound.LOCAL, 1, warm_start=WarmStart(kind, 5)
    )
    module.current_epsilon, module.current_mixing = 0.16, 1.0
    norms: Any = module.norms
    norms.sides.clear()
    objective = module.objective(torch.rand(2, 3, 64, 64), torch.tensor([3, 190]), torch.tensor([4, 0]))
    activations = [str(index) for index, layer in enumerate(model) if hasattr(layer, "threshold")]
    assert len(activations) == 9
    assert [each.name for each in objective.analysis.activations] == activations
    assert norms.sides == {name: (True, index > 0) for index, name in enumerate(activations)}
    for each in objective.analysis.activations:
        assert each.masked_norm.shape == (2,)
    kept = {"shared": 0, "output_side": 512, "per_image": 3_714_304}
    assert norms.warm_start.bytes_per_image == kept[kind]
