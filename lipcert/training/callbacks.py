"""Callbacks that act on the module at every step: schedules, projections."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from lipcert.nn.architectures import project_thresholds
from lipcert.training.module import RobustClassifier


def progress_of(trainer: pl.Trainer, batch_index: int) -> float:
    """Return training progress in epochs, before the batch of that index."""
    return trainer.current_epoch + batch_index / max(1, int(trainer.num_training_batches))


class ScheduleCallback(pl.Callback):
    """Sets epsilon, lambda and the learning rate before every step (eqs 27-29), and logs them."""

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        module = _robust(pl_module)
        progress = progress_of(trainer, batch_idx)
        module.current_epsilon = module.schedule.epsilon(progress)
        module.current_mixing = module.schedule.mixing(progress)
        learning_rate = module.schedule.learning_rate(progress)
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module = _robust(pl_module)
        module.log("schedule/epsilon", module.current_epsilon, prog_bar=True)
        module.log("schedule/lambda", module.current_mixing)
        module.log("schedule/learning_rate", trainer.optimizers[0].param_groups[0]["lr"])


class ProjectThresholds(pl.Callback):
    """Projects the thresholds of clipped activations onto >= 0 after every optimizer step."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        project_thresholds(_robust(pl_module).model)


def _robust(module: pl.LightningModule) -> RobustClassifier:
    if not isinstance(module, RobustClassifier):
        raise TypeError(f"This callback works with RobustClassifier, got {type(module).__name__}.")
    return module
