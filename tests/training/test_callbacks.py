"""Callbacks: schedules reach loss and optimizer, thresholds stay >= 0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from lipcert.losses import Standard
from lipcert.nn import ClippedReLU
from lipcert.training import callbacks
from lipcert.training.callbacks import ScheduleCallback
from tests.training.fits import BATCHES, EPOCHS, StopAfter, classifier, digits, trainer


class Recording(Standard):
    """The clean loss, remembering what the schedules handed it."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, float]] = []

    def __call__(self, model: Any, images: Any, labels: Any, setting: Any) -> Any:
        self.seen.append((setting.epsilon, setting.mixing))
        return super().__call__(model, images, labels, setting)


class LearningRates(pl.Callback):
    """Remembers the learning rate of every optimizer step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
        self.seen += [group["lr"] for group in optimizer.param_groups]


def _lowest_threshold(folder: Path) -> float:
    pl.seed_everything(0, verbose=False)
    module = classifier(learning_rate=0.05)
    for layer in module.model.modules():
        if isinstance(layer, ClippedReLU):
            layer.threshold.data.fill_(0.02)
    trainer(folder, StopAfter(1)).fit(module, digits())
    thresholds = [layer.threshold for layer in module.model.modules() if isinstance(layer, ClippedReLU)]
    assert len(thresholds) == 3
    assert all(threshold.isfinite().all() for threshold in thresholds)
    return min(threshold.min().item() for threshold in thresholds)


def test_schedules_are_used_step_by_step(tmp_path: Path) -> None:
    """Warm-up to epoch 0.5, ramp to 2.5, decay by ten from 1.5 to 4; four steps an epoch."""
    method, rates = Recording(), LearningRates()
    module = classifier(method=method)
    fitted = trainer(tmp_path, rates)
    fitted.fit(module, digits())
    progress = [step / BATCHES for step in range(EPOCHS * BATCHES)]
    factors = [min(1.0, max(0.0, (t - 0.5) / 2)) for t in progress]
    assert [mixing for _, mixing in method.seen] == pytest.approx(factors)
    assert [epsilon for epsilon, _ in method.seen] == pytest.approx([0.4 * factor for factor in factors])
    assert rates.seen == pytest.approx([1e-3 * 10 ** -max(0.0, (t - 1.5) / 2.5) for t in progress])
    logged = {key: value.item() for key, value in fitted.callback_metrics.items() if key.startswith("schedule/")}
    wanted = {"schedule/epsilon": 0.4, "schedule/lambda": 1.0, "schedule/learning_rate": rates.seen[-1]}
    assert logged == pytest.approx(wanted)


def test_thresholds_stay_at_or_above_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _lowest_threshold(tmp_path / "with") == 0.0
    monkeypatch.setattr(callbacks, "project_thresholds", lambda model: None)
    assert _lowest_threshold(tmp_path / "without") < 0.0


def test_callbacks_refuse_other_modules() -> None:
    with pytest.raises(TypeError, match="RobustClassifier, got LightningModule"):
        ScheduleCallback().on_train_batch_start(pl.Trainer(logger=False), pl.LightningModule(), None, 0)
