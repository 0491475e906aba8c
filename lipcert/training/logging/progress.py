"""What a run shows while it trains: one live line on a terminal, a summary and a line an epoch in a log."""

import logging
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from lipcert.data import ImageDataModule
from lipcert.training.module import RobustClassifier
from lipcert.training.processes import is_first_process

logger = logging.getLogger(__name__)

BAR = 8
"""Columns of the bar: with 999 epochs and hours to go the line still fits into 80."""

KEYS = {"clean": "val/clean_accuracy", "certified": "val/certified_accuracy"}


def figures(epsilon: float, accuracies: Mapping[str, float]) -> str:
    """Return epsilon, in pixels of [0, 1], and accuracies under the names of `KEYS`, `-` for those that are missing."""
    shown = [f"{name} {accuracies[name]:.1%}" if name in accuracies else f"{name} -" for name in KEYS]
    return " ".join([f"epsilon {epsilon:.3f}", *shown])


def summary(trainer: pl.Trainer, module: pl.LightningModule) -> str:
    """Return what a log says of a run that starts: folder, device, images, parameters, epochs, where it goes on."""
    folder = next((each.save_dir for each in trainer.loggers if each.save_dir), trainer.default_root_dir)
    parts = [f"{trainer.world_size} x {trainer.strategy.root_device}"]
    data = getattr(trainer, "datamodule", None)
    if isinstance(data, ImageDataModule):
        counts = f"{len(data.train)} + {len(data.validation)} held out + {len(data.test)} to test"
        extra = f" + {len(data.extra.split)} extra" if data.extra else ""
        parts.append(f"images {counts}{extra} of {'x'.join(map(str, data.image_shape))}, {data.num_classes} classes")
    parts.append(f"{sum(each.numel() for each in module.parameters())} parameters")
    resumed = f", resumed at epoch {trainer.current_epoch + 1}" if trainer.current_epoch else ""
    return f"run in {folder}: {', '.join(parts)}, {trainer.max_epochs} epochs{resumed}"


class TrainingProgress(pl.Callback):
    """Keeps a progress bar over all epochs on standard error, or `console`; logs lines if that is no terminal.

    In the first process alone.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._accuracies: dict[str, float] = {}
        self._logs = False
        self._started, self._first = 0.0, 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        console = self._console or Console(stderr=True)
        columns = (
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(BAR),
            TaskProgressColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[figures]}"),
        )
        shown = console.is_terminal and is_first_process()
        self._logs = not console.is_terminal and is_first_process()
        self._started, self._first = time.monotonic(), trainer.current_epoch
        if self._logs:
            logger.info("%s", summary(trainer, pl_module))
        self._progress = Progress(*columns, console=console, disable=not shown, refresh_per_second=4)
        batches, epochs = int(trainer.num_training_batches), trainer.max_epochs or 1
        fields: dict[str, Any] = {"epoch": trainer.current_epoch + 1, "epochs": epochs, "figures": ""}
        done = trainer.current_epoch * batches  # behind a resumed run
        self._progress.add_task("", total=epochs * batches, completed=done, **fields)
        self._progress.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        done = trainer.current_epoch * int(trainer.num_training_batches) + batch_idx + 1
        self._show(pl_module, completed=done, epoch=trainer.current_epoch + 1)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._logs or not isinstance(pl_module, RobustClassifier):
            return
        done, epochs = trainer.current_epoch + 1, trainer.max_epochs or 1
        seconds = (time.monotonic() - self._started) / (done - self._first)
        loss = float(trainer.callback_metrics.get("train/loss", float("nan")))
        shown = f"loss {loss:.4g} {figures(pl_module.current_epsilon, self._accuracies)}"
        left = timedelta(seconds=round(seconds * (epochs - done)))
        logger.info("epoch %d/%d: %s, %.3g s an epoch, %s left", done, epochs, shown, seconds, left)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        logged = trainer.callback_metrics
        self._accuracies = {name: float(logged[key]) for name, key in KEYS.items() if key in logged}
        self._show(pl_module)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Stop, whatever ended the training."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _show(self, pl_module: pl.LightningModule, **changed: Any) -> None:
        if self._progress is not None and isinstance(pl_module, RobustClassifier):
            text = figures(pl_module.current_epsilon, self._accuracies)
            self._progress.update(self._progress.task_ids[0], figures=text, **changed)
