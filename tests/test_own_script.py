"""RobustClassifier and ImageDataModule with a plain trainer of Lightning, and the notebook of the documentation."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from lipcert.nn import build
from lipcert.training.module import RobustClassifier
from lipcert.training.schedules import Schedule
from tests.training.fits import digits
from tests.training.test_callbacks import Recording

REPOSITORY = Path(__file__).parents[1]
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


def _classifier(method: Any) -> RobustClassifier:
    shape = (1, 8, 8)
    optimizer = partial(torch.optim.Adam, lr=1e-3)
    return RobustClassifier(build("small", shape, 10), method, optimizer, Schedule.rising(2, 0.2), shape, 0.2)


@pytest.mark.parametrize("own_loader", [False, True])
def test_a_plain_trainer_trains_at_the_epsilon_of_the_schedule(own_loader: bool) -> None:
    method, data = Recording(), digits()
    loaders = [DataLoader(TensorDataset(*each[:]), 50) for each in (data.train, data.validation)]
    served: dict[str, Any] = dict(zip(("train_dataloaders", "val_dataloaders"), loaders, strict=True))
    served = served if own_loader else {"datamodule": data}
    pl.Trainer(accelerator="cpu", max_epochs=2, **QUIET).fit(_classifier(method), **served)
    assert [epsilon for epsilon, _ in method.seen] == pytest.approx([0.22 * min(1.0, t / 4) for t in range(8)])


def test_other_epochs_than_the_schedules_are_refused() -> None:
    with pytest.raises(ValueError, match=r"pl\.Trainer\(max_epochs=2\)"):
        pl.Trainer(accelerator="cpu", max_epochs=3, **QUIET).fit(_classifier(Recording()), digits())


def test_the_notebook_runs() -> None:
    notebook = json.loads((REPOSITORY / "docs" / "own_training.ipynb").read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert names["certificate"].certified_accuracy > 0
