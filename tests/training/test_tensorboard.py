"""Runs logged to TensorBoard hold the curves of `metrics.csv`; without the package, what to install is said."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lipcert.training.build import build_loggers
from tests.running import QUICK, train_each

CHEAP = ("data.limit_test=10", "evaluation.pgd_steps=0", "evaluation.bounds=[]", "schedule.epochs=2")


def test_curves_are_those_of_the_csv(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (done,) = train_each([[*QUICK, *CHEAP, "logger=tensorboard", "hydra.run.dir=run"]], tmp_path)
    assert done["exit"] == 0, done["stderr"]
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    read = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    keys = {key for key in rows[0] if "/" in key}
    assert len(keys) == 14
    assert set(read.Tags()["scalars"]) == {*keys, "epoch"}
    for key in keys:
        pairs = [(int(row["step"]), float(row[key])) for row in rows if row[key]]
        assert [event.step for event in read.Scalars(key)] == [step for step, _ in pairs]
        assert [event.value for event in read.Scalars(key)] == pytest.approx([value for _, value in pairs])


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for flag in ("_TENSORBOARD_AVAILABLE", "_TENSORBOARDX_AVAILABLE"):
        monkeypatch.setattr(f"lightning_fabric.loggers.tensorboard.{flag}", False)
    target = {"_target_": "pytorch_lightning.loggers.TensorBoardLogger", "save_dir": str(tmp_path)}
    with pytest.raises(ValueError, match=r"logger=tensorboard needs a package .*`pip install tensorboard`"):
        build_loggers(OmegaConf.create({"logger": {"tensorboard": target}}))
