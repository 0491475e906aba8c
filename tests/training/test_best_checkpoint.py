"""The best checkpoint of a run that was interrupted stays the best until a better one comes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from lipcert.training.resume.checkpoints import BestCheckpoint


def _checkpoint(folder: Path) -> BestCheckpoint:
    return BestCheckpoint(folder, filename="best", monitor="accuracy", mode="max", enable_version_counter=False)


def _interrupted(folder: Path, score: float) -> BestCheckpoint:
    folder.mkdir()
    (folder / "best.ckpt").write_bytes(b"the best so far")
    first = _checkpoint(folder)
    first.best_model_path = first.kth_best_model_path = str(folder / "best.ckpt")
    first.best_model_score = first.kth_value = torch.tensor(score)
    first.best_k_models = {first.best_model_path: torch.tensor(score)}
    return first


def test_score_and_file_are_taken_over(tmp_path: Path) -> None:
    first = _interrupted(tmp_path / "first", 0.7)
    second = _checkpoint(tmp_path / "second")
    second.load_state_dict(first.state_dict())
    assert (tmp_path / "second" / "best.ckpt").read_bytes() == b"the best so far"
    assert second.best_model_path == str(tmp_path / "second" / "best.ckpt")
    one_process: Any = SimpleNamespace(strategy=SimpleNamespace(reduce_boolean_decision=bool))
    assert not second.check_monitor_top_k(one_process, torch.tensor(0.6))
    assert second.check_monitor_top_k(one_process, torch.tensor(0.8))


def test_a_lost_file_is_not_taken_over(tmp_path: Path) -> None:
    first = _interrupted(tmp_path / "first", 0.7)
    (tmp_path / "first" / "best.ckpt").unlink()
    second = _checkpoint(tmp_path / "second")
    second.load_state_dict(first.state_dict())
    assert second.best_model_score is None
    assert not (tmp_path / "second").exists() or not list((tmp_path / "second").iterdir())
