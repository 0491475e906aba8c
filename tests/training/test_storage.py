"""Whatever happens while a checkpoint is written, a whole one is there afterwards."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from lipcert.training.resume.checkpoints import AtomicCheckpoints, DamagedCheckpointError, read_state
from tests.damage import flip_bit


def _state(epoch: int, size: int = 1000) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "state_dict": {"weight": torch.full((size,), epoch + 0.5)},
        "lipcert": {},
        "pytorch-lightning_version": "2.5.0",
    }


def _save(folder: Path, epoch: int, name: str = "last.ckpt", size: int = 1000) -> None:
    AtomicCheckpoints().save_checkpoint(_state(epoch, size), folder / "checkpoints" / name)


def _epochs(folder: Path) -> dict[str, int]:
    """Return the epoch of every file; each is read as a whole."""
    return {path.name: read_state(path)["epoch"] for path in (folder / "checkpoints").iterdir()}


def test_the_last_but_one_is_kept(tmp_path: Path) -> None:
    for epoch in range(3):
        _save(tmp_path, epoch)
        _save(tmp_path, epoch, "best.ckpt")
    assert _epochs(tmp_path) == {"last.ckpt": 2, "previous.ckpt": 1, "best.ckpt": 2}


@contextmanager
def _files_up_to(size: int) -> Iterator[None]:
    """Let the kernel cut off every write beyond a size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt"])
def test_no_room(tmp_path: Path, name: str) -> None:
    for epoch in range(2):
        _save(tmp_path, epoch, name, size=20_000)
    before = _epochs(tmp_path)
    with _files_up_to(40_000), pytest.raises(OSError, match=r"File too large.*" + name) as failure:
        _save(tmp_path, 2, name, size=20_000)
    assert failure.value.filename == str(tmp_path / "checkpoints" / name)
    assert _epochs(tmp_path) == before


class _Stopped(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("call", ["fsync", "link", "replace"])
@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("after", [True, False])
def test_ended_at_any_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, after: bool
) -> None:
    """Before or after each system call; what is cleared away in `finally` may be left by a real kill."""
    for epoch in range(2):
        _save(tmp_path, epoch)
    original, calls = getattr(os, call), 0

    def ending(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number and not after:
            raise _Stopped
        result = original(*arguments)
        if calls == number:
            raise _Stopped
        return result

    with monkeypatch.context() as patch:
        patch.setattr(os, call, ending)
        patch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
        try:
            _save(tmp_path, 2)
        except _Stopped:
            assert calls == number
        else:
            assert calls < number
    checkpoints = {path.name for path in (tmp_path / "checkpoints").glob("[!.]*")}
    assert checkpoints == {"last.ckpt", "previous.ckpt"}
    last, previous = (read_state(tmp_path / "checkpoints" / name)["epoch"] for name in ("last.ckpt", "previous.ckpt"))
    assert (last, previous) in {(1, 0), (1, 1), (2, 1)}


def test_damage_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "last.ckpt"
    _save(tmp_path, 3)
    whole = path.read_bytes()
    flip_bit(path, torch.full((1000,), 3.5))
    torch.load(path, weights_only=True)  # torch notices nothing
    with pytest.raises(DamagedCheckpointError, match="checksum"):
        read_state(path)
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedCheckpointError):
            read_state(path)


@pytest.mark.parametrize("content", [{}, [], {"epoch": "no"}, {"epoch": 3}, torch.zeros(2)])
def test_other_files_of_torch(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(DamagedCheckpointError):
        read_state(tmp_path / "other.ckpt")
