"""What training steps skip: measured now and then, handed to the module, kept in checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from lipcert.bounds import Plan
from lipcert.training.callbacks import SkipPlan
from tests.training.fits import BATCHES, EPOCHS, classifier, digits, trainer

WARM_UP = 3
"""Steps at epsilon 0: the schedule rises from epoch 0.5, in the middle of four batches."""


class Plans(pl.Callback):
    """Remembers the plan of every step; stands for what a measurement finds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.measured: list[int] = []
        self.used: list[Plan] = []
        self.step = 0
        monkeypatch.setattr("lipcert.training.callbacks.measure_plan", self.measure)

    def measure(self, graph: Any, images: torch.Tensor, epsilon: float, *others: Any, **more: Any) -> Plan:
        assert images.shape == (50, 1, 8, 8)
        assert epsilon > 0
        self.measured.append(self.step)
        return Plan(masks=frozenset({"6"} if len(self.measured) % 2 else {"3"}))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.used.append(pl_module.plan)
        self.step += 1


def test_gains_are_measured_every_so_many_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans = Plans(monkeypatch)
    trainer(tmp_path, plans).fit(classifier(), digits())  # every third step
    assert plans.measured == list(range(WARM_UP, EPOCHS * BATCHES, 3))
    names = [{"6"}, {"3"}] * EPOCHS
    expected = [Plan()] * WARM_UP + [Plan(masks=frozenset(each)) for each in names for _ in range(3)]
    assert plans.used == expected[: EPOCHS * BATCHES]


def test_a_plan_goes_on_from_its_checkpoint() -> None:
    skipping, restored = SkipPlan(4), SkipPlan(4)
    skipping.plan, skipping._steps_left = Plan(frozenset({"2", "0"}), frozenset({"1"})), 3
    restored.load_state_dict(skipping.state_dict())
    assert restored.plan == skipping.plan
    assert restored.state_dict() == skipping.state_dict()


def test_nothing_is_skipped() -> None:
    module = classifier()
    module.current_epsilon = 0.3
    SkipPlan(0).on_train_batch_start(pl.Trainer(logger=False), module, digits().train[:4], 0)
    assert module.plan == Plan()
    with pytest.raises(ValueError, match=r"Expected `bound\.skip_every` >= 0, got -1"):
        SkipPlan(-1)
