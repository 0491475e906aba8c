"""A folder is held by one process at a time, and by none that has died."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from lipcert.training.processes import locked
from tests.running import start

HOLD = """
import sys, time
from pathlib import Path
from lipcert.training.processes import locked
with locked(Path(sys.argv[1])):
    Path(sys.argv[2]).touch()
    time.sleep(120)
"""


def test_one_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path):
        with (
            pytest.raises(BlockingIOError, match=rf"in use .*process {os.getpid()} on .*resume=auto"),
            locked(tmp_path),
        ):
            pass
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path):
        pass


def test_released_by_a_killed_process(tmp_path: Path) -> None:
    folder, held = tmp_path / "folder", tmp_path / "held"
    folder.mkdir()
    holder = start("-c", HOLD, str(folder), str(held), cwd=tmp_path)
    while not (held.exists() or holder.has_ended()):
        time.sleep(0.01)
    with pytest.raises(BlockingIOError, match=f"process {holder.pid} on"), locked(folder):
        pass
    holder.kill()
    assert holder.wait().returncode == -signal.SIGKILL
    assert (folder / ".lock").exists()
    with locked(folder):
        assert str(os.getpid()) in (folder / ".lock").read_text()


def test_the_first_rank_holds_it_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with locked(tmp_path):
        monkeypatch.setenv("RANK", "1")
        with locked(tmp_path):
            assert (tmp_path / ".lock").exists()
        assert (tmp_path / ".lock").exists()
