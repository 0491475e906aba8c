"""Short trainings on digits, with the callbacks that every run has."""

from __future__ import annotations

import resource
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from lipcert.data import ImageDataModule
from lipcert.losses import GloRo
from lipcert.nn import build
from lipcert.system.schema import BoundConfig
from lipcert.training.callbacks import RandomState
from lipcert.training.module import RobustClassifier
from lipcert.training.schedules import Schedule

EPOCHS = 4
BATCHES = 4
PATIENCE = 900
"""Seconds after which a run that was forgotten goes on."""


def digits(**arguments: Any) -> ImageDataModule:
    """Return 200 images in four batches of 50, and 20 held out."""
    values = {"batch_size": 50, "limit_train": 200, "validation": 20, "crop_padding": 1, "seed": 3}
    return ImageDataModule("digits", **{**values, **arguments})


def classifier(
    activation: str = "clipped_relu", seed: int = 0, learning_rate: float = 1e-3, **arguments: Any
) -> RobustClassifier:
    """Return the small net with thresholds that clip, to be trained with GloRo and the local bound."""
    torch.manual_seed(seed)
    values: dict[str, Any] = {
        "method": GloRo(),
        "optimizer": partial(torch.optim.Adam, lr=learning_rate),
        "schedule": Schedule(EPOCHS, 0.5, 2.5, 1.5, learning_rate, learning_rate / 10, 0.4),
        "image_shape": (1, 8, 8),
        "epsilon": 0.3,
        "bound": BoundConfig(box_gradients=False, skip_every=3),
        "description": {"model": "small", "activation": activation},
        **arguments,
    }
    return RobustClassifier(build("small", (1, 8, 8), 10, activation, threshold=0.1), **values)


def trainer(folder: Path, *callbacks: pl.Callback, seed: int = 0) -> pl.Trainer:
    """Return a trainer on the CPU that keeps `folder`/last.ckpt."""
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        callbacks=[
            *callbacks,
            RandomState(seed),
            ModelCheckpoint(folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False),
        ],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        deterministic=True,
    )


class StopAfter(pl.Callback):
    """Ends training after an epoch, as an interruption would; schedules still count on all epochs."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch >= self.epoch


class Pause(pl.Callback):
    """Stops in mid-epoch, once: writes a file to be waited for, and waits for a signal."""

    def __init__(self, epoch: int, file: str, batch: int = 3) -> None:
        self.place, self.file = (epoch, batch), Path(file)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        if (trainer.current_epoch, index) == self.place and not self.file.exists():
            self.file.touch()
            deadline = time.monotonic() + PATIENCE
            while time.monotonic() < deadline:
                time.sleep(0.05)


class DiskFills(pl.Callback):
    """Lets no file grow beyond a size from an epoch on, until training ends; a write beyond it is cut off."""

    def __init__(self, epoch: int, size: int) -> None:
        self.epoch, self.size = epoch, size
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.before[1]))

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)
