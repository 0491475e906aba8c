"""A callback that ends the run of one seed once its first checkpoint is written."""

from __future__ import annotations

import os
import signal

import pytorch_lightning as pl


class Faulty(pl.Callback):
    """Raises KeyError or KeyboardInterrupt, or sends SIGTERM, in the run with a certain seed."""

    def __init__(self, seed: int, kind: str) -> None:
        self.seed = seed
        self.kind = kind

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if os.environ.get("PL_GLOBAL_SEED") != str(self.seed):
            return
        if self.kind == "SIGTERM":
            os.kill(os.getpid(), signal.SIGTERM)
            return
        raise {"KeyError": KeyError, "KeyboardInterrupt": KeyboardInterrupt}[self.kind]("planted")
