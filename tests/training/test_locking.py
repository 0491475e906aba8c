"""A folder is held by one process at a time, and by none that has died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lipcert.training.locking import locked
from tests.running import REPOSITORY

HOLD = """
import sys, time
from pathlib import Path
from lipcert.training.locking import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
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
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPOSITORY, text=True)
    assert holder.stdout is not None
    with holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError, match=f"process {holder.pid} on"), locked(tmp_path):
            pass
        holder.send_signal(signal.SIGKILL)
    assert (tmp_path / ".lock").exists()
    with locked(tmp_path):
        assert str(os.getpid()) in (tmp_path / ".lock").read_text()


def test_the_first_rank_holds_it_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with locked(tmp_path):
        monkeypatch.setenv("RANK", "1")
        with locked(tmp_path):
            assert (tmp_path / ".lock").exists()
        assert (tmp_path / ".lock").exists()
