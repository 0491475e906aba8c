"""Callbacks: schedules, projections, random state, the best checkpoint."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from lipcert.nn.architectures import project_thresholds
from lipcert.system.files import write_bytes
from lipcert.training.module import RobustClassifier
from lipcert.training.processes import is_first_process


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


class RandomState(pl.Callback):
    """Keeps the random state of Python, NumPy and torch in checkpoints, so that a resumed run goes on exactly.

    Every process starts from the same seed, and goes on from the first one's state: of its CPU and of its GPU.
    Only tensors and plain values are stored, so that checkpoints load without unpickling arbitrary objects.
    """

    def __init__(self) -> None:
        self._restored: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        name, keys, *rest = np.random.get_state()
        state = {
            "python": random.getstate(),
            "numpy": (str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
            "torch": torch.get_rng_state(),
        }
        if torch.cuda.is_available():
            state["cuda"] = torch.cuda.get_rng_state()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._restored is None:
            return
        version, internal, gauss = self._restored["python"]
        random.setstate((version, tuple(internal), gauss))
        name, keys, *rest = self._restored["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
        torch.set_rng_state(self._restored["torch"].cpu())
        if torch.cuda.is_available() and "cuda" in self._restored:
            state = self._restored["cuda"]
            torch.cuda.set_rng_state((state[0] if isinstance(state, list) else state).cpu())


class BestCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint whose score and file a resumed run takes over, in its own folder, a new or a moved one."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        score, old = state_dict.get("best_model_score"), Path(state_dict.get("best_model_path") or "")
        own = str(self.dirpath) == str(state_dict.get("dirpath"))
        if self.dirpath is None or (own and all(Path(each).is_file() for each in self.best_k_models)):
            return  # the same run in its own folder, everything there
        new = Path(self.dirpath) / old.name
        if score is None or not (new.is_file() or old.is_file()):
            self.best_model_path, self.best_model_score = "", None
            self.kth_best_model_path, self.best_k_models = "", {}
            return
        if is_first_process() and not new.is_file():
            new.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(new, old.read_bytes())
        self.best_model_path = self.kth_best_model_path = str(new)
        self.best_model_score = self.kth_value = score
        self.best_k_models = {str(new): score}


def _robust(module: pl.LightningModule) -> RobustClassifier:
    if not isinstance(module, RobustClassifier):
        raise TypeError(f"This callback works with RobustClassifier, got {type(module).__name__}.")
    return module
