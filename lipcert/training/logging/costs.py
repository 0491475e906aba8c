"""What training has cost, over all starts of a run."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import pytorch_lightning as pl
import torch

from lipcert.system.memory import restart_host_peak


def restart_peak() -> None:
    """Let the peak start anew: what the process held before, in an earlier job of a sweep say, no longer counts."""
    restart_host_peak()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory_mb() -> float:
    """Return the most memory this process has held since the peak started: on the GPU if it used one, else in all."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


class Costs(pl.Callback):
    """Counts the seconds, the epochs and the peak memory of training; kept in checkpoints.

    Epochs that an interruption cut off are not counted, nor is their time.
    """

    def __init__(self) -> None:
        self.epochs = 0
        self._seconds = 0.0
        self._started: float | None = None
        self._peak_mb = 0.0

    @property
    def seconds(self) -> float:
        """Seconds of training so far."""
        running = 0.0 if self._started is None else time.perf_counter() - self._started
        return self._seconds + running

    @property
    def peak_memory_mb(self) -> float:
        """The most memory that this process of the run has held in training."""
        return self._peak_mb if self._started is None else max(self._peak_mb, peak_memory_mb())

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        restart_peak()
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.epochs += 1

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._seconds, self._peak_mb, self._started = self.seconds, self.peak_memory_mb, None

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self.epochs, "seconds": self.seconds, "peak_memory_mb": self.peak_memory_mb}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epochs, self._seconds = int(state_dict["epochs"]), float(state_dict["seconds"])
        self._peak_mb = float(state_dict["peak_memory_mb"])
