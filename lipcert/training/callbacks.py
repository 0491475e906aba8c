"""Callbacks that every run has: schedules, projections, seeds, what is skipped, what training has cost."""

import random
import resource
import sys
import time
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from lipcert.bounds import Plan, measure_plan
from lipcert.nn.architectures import project_thresholds
from lipcert.system.errors import refuse_below
from lipcert.system.memory import restart_host_peak
from lipcert.training.module import RobustClassifier


class ScheduleCallback(Callback):
    """Sets epsilon, lambda and the learning rate before every step (eqs 27-29), and logs them."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        module = _robust(pl_module)
        progress = trainer.current_epoch + batch_idx / max(1, int(trainer.num_training_batches))  # in epochs
        module.current_epsilon = module.schedule.epsilon(progress)
        module.current_mixing = module.schedule.mixing(progress)
        learning_rate = module.schedule.learning_rate(progress)
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module = _robust(pl_module)
        module.log("schedule/epsilon", module.current_epsilon, prog_bar=True)
        module.log("schedule/lambda", module.current_mixing)
        module.log("schedule/learning_rate", trainer.optimizers[0].param_groups[0]["lr"])


class ProjectThresholds(Callback):
    """Projects the thresholds of clipped activations onto >= 0 after every optimizer step."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        project_thresholds(_robust(pl_module).model)


class RandomState(Callback):
    """Seeds Python, NumPy and torch before every epoch, so that a resumed run draws what an uninterrupted one does.

    `seed` and epoch decide what is drawn, in every process the same.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seed = (self.seed * 1_000_003 + trainer.current_epoch) % 2**32
        for seeded in (random.seed, np.random.seed, torch.manual_seed):
            seeded(seed)


class SkipPlan(Callback):
    """Measures which boxes and masked norms gain next to nothing, and lets the module skip them until the next time.

    The first plan is made at the first step with epsilon > 0. All processes measure, and agree on the mean of their
    gains; a resumed run goes on with the plan of its checkpoint. It belongs behind `ScheduleCallback`.

    Args:
        every: training steps between two measurements; 0 skips nothing at any step.

    Raises:
        ValueError: if `every` is below 0.
    """

    def __init__(self, every: int = 20) -> None:
        refuse_below(0, {"bound.skip_every": every})
        self.every = every
        self.plan = Plan()
        self._steps_left = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        module = _robust(pl_module)
        if self.every == 0 or module.current_epsilon <= 0:
            return
        if self._steps_left == 0:
            setting = module.current_epsilon, module.bound.name, module.norms
            self.plan = measure_plan(module.graph, batch[0], *setting, clip_input=module.bound.clip_input)
            self._steps_left = self.every
        module.plan = self.plan
        self._steps_left -= 1

    def state_dict(self) -> dict[str, Any]:
        skipped = {work: sorted(names) for work, names in asdict(self.plan).items()}
        return {"skipped": skipped, "steps_left": self._steps_left}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.plan = Plan(**{work: frozenset(names) for work, names in state_dict["skipped"].items()})
        self._steps_left = int(state_dict["steps_left"])


class Costs(Callback):
    """Counts the seconds, the epochs and the peak memory of training; kept in checkpoints.

    Epochs that an interruption cut off are not counted, nor is their time.
    """

    def __init__(self) -> None:
        self.epochs = 0
        self.seconds = self.peak_memory_mb = self._started = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        restart_host_peak()  # what an earlier job of a sweep has held does not count
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        now = time.perf_counter()
        self.epochs, self.seconds, self._started = self.epochs + 1, self.seconds + now - self._started, now
        self.peak_memory_mb = max(self.peak_memory_mb, peak_memory_mb())

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self.epochs, "seconds": self.seconds, "peak_memory_mb": self.peak_memory_mb}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epochs, self.seconds = state_dict["epochs"], state_dict["seconds"]
        self.peak_memory_mb = state_dict["peak_memory_mb"]


def peak_memory_mb() -> float:
    """Return the most memory this process has held since the peak started: on the GPU if it used one, else in all."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _robust(module: LightningModule) -> RobustClassifier:
    if not isinstance(module, RobustClassifier):
        raise TypeError(f"This callback works with RobustClassifier, got {type(module).__name__}.")
    return module
