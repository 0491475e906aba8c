"""What one process of a training sees; run by `test_ddp.py` in two processes, and by the test itself in one."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lipcert.bounds import Bound
from lipcert.data import load_images
from lipcert.losses import BCP, GloRo
from lipcert.nn import build
from lipcert.system.schema import BoundConfig
from lipcert.training.evaluation import EvaluationSettings, evaluate
from lipcert.training.schedules import Schedule
from tests.training.fits import classifier, digits

BATCH = 8
HELD_OUT = 17
"""Validation batches of 8, 8 and 1: one rank of two has no image in the last."""

CASES = [(method, count) for method in ("bcp", "gloro") for count in (37, 33)]
"""37 images: the last batch has 5, three and two; 33: it has 1, so that a rank has none."""

STEPS = 10
SETTINGS = EvaluationSettings(["global", "tight"], 20, 3, 7, False, 30)
EPSILON = 0.2


class Observed(pl.Callback):
    """Keeps the gradient of every step; spoils the second rank's singular vectors before the last."""

    def __init__(self) -> None:
        self.gradients: list[Tensor] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_rank == 1 and trainer.global_step == STEPS - 1:
            with torch.no_grad():
                for vector in pl_module.norms.buffers():
                    vector.copy_(torch.ones_like(vector))

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.gradients.append(torch.cat([p.grad.flatten().clone() for p in pl_module.model.parameters()]))


def fit(method: str, count: int, devices: int) -> dict[str, Any]:
    """Train for two epochs; return gradients, logged values and the singular vectors at the end."""
    observed = Observed()
    pl.seed_everything(0, verbose=False)
    module = classifier(
        method={"bcp": BCP, "gloro": GloRo}[method](),
        optimizer=partial(torch.optim.SGD, lr=0.1),
        schedule=Schedule(2, 0, 0, 2, 0.1, 0.1, 0.05),
        epsilon=0.05,
        bound=BoundConfig(precision="float32", box_gradients=False, skip_every=3),
    )
    module.statistics_every = 2
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        max_epochs=2,
        check_val_every_n_epoch=2,
        callbacks=[observed],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    trainer.fit(module, digits(batch_size=BATCH, limit_train=count, validation=HELD_OUT, crop_padding=1))
    assert len(observed.gradients) == STEPS
    return {
        "gradients": torch.stack(observed.gradients),
        "logged": {key: float(value) for key, value in trainer.callback_metrics.items()},
        "vectors": {name: vector.clone() for name, vector in module.norms.named_buffers()},
    }


def evaluated(weights: Path) -> dict[str, Any]:
    """Evaluate weights from a file on 40 images in chunks of seven, this process's part if there are several."""
    model = build("small", (1, 8, 8), 10)
    model.load_state_dict(torch.load(weights, weights_only=True))
    return evaluate(model, load_images("digits").test.first(40), EPSILON, Bound.LOCAL, SETTINGS)


def observe(devices: int, weights: Path) -> dict[str, Any]:
    """Return everything that the tests compare."""
    fits = {f"{method} {count}": fit(method, count, devices) for method, count in CASES}
    return {**fits, "evaluated": evaluated(weights)}


if __name__ == "__main__":
    weights, output = map(Path, sys.argv[1:])
    torch.save(observe(2, weights), output)
