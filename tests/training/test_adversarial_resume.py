"""Methods that draw random starts end, after an interruption, exactly where an uninterrupted training does."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from lipcert.losses import TRADES, Adversarial, ReLUStability
from lipcert.losses.objective import Method
from tests.training.fits import StopAfter, classifier, digits, trainer

METHODS: dict[str, Method] = {
    "adversarial": Adversarial(steps=2),
    "trades": TRADES(steps=2),
    "relu_stability": ReLUStability(steps=2),
}


def _weights(
    folder: Path, name: str, seed: int, *callbacks: pl.Callback, resume: Path | None = None
) -> dict[str, Tensor]:
    pl.seed_everything(seed, verbose=False)
    module = classifier(method=METHODS[name], seed=seed)
    trainer(folder, *callbacks).fit(module, digits(), ckpt_path=resume, weights_only=True)
    return module.state_dict()


@pytest.mark.parametrize("name", METHODS)
def test_resumed_training_is_bit_identical(tmp_path: Path, name: str) -> None:
    whole = _weights(tmp_path / "whole", name, 0)
    half = _weights(tmp_path / "half", name, 0, StopAfter(1))
    rest = _weights(tmp_path / "rest", name, 99, resume=tmp_path / "half" / "last.ckpt")
    moved = [key for key in whole if key.startswith("model.")]
    assert [key for key in moved if not torch.equal(rest[key], whole[key])] == []
    assert [key for key in moved if torch.equal(half[key], whole[key])] == []


def test_another_seed_draws_other_starts(tmp_path: Path) -> None:
    first, again = (_weights(tmp_path / name, "adversarial", 0, StopAfter(0)) for name in ("first", "again"))
    assert all(torch.equal(first[key], again[key]) for key in first)
    pl.seed_everything(0, verbose=False)
    module = classifier(method=METHODS["adversarial"], seed=0)
    trainer(tmp_path / "other", StopAfter(0), seed=5).fit(module, digits())
    assert any(not torch.equal(first[key], value) for key, value in module.state_dict().items())
