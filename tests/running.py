"""Runs command lines in processes of their own."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any

from tests.train_each import MARK, request

REPOSITORY = Path(__file__).resolve().parents[1]

QUICK = (
    "data.limit_train=150",
    "data.limit_test=40",
    "data.validation=20",
    "batch_size=16",
    "schedule.epochs=3",
    "schedule.initial_lr=3e-3",
    "evaluation.pgd_steps=5",
    "evaluation.lanczos_steps=20",
    "callbacks=quiet",
)
"""A run of a few seconds that learns something."""


PATIENCE = 900
"""Seconds after which a process that hangs is ended."""


def python(
    *arguments: str, cwd: Path, importing: Path = REPOSITORY, stdin: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run Python in folder `cwd`, with the packages of folder `importing`."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=_environment(importing, **environment),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def _environment(importing: Path, **added: str) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("LIPCERT", "HYDRA", "WANDB"))}
    return {**inherited, "PYTHONPATH": str(importing), "PYTHONWARNINGS": "ignore", **added}


def train(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m lipcert.train`."""
    return python("-m", "lipcert.train", *arguments, cwd=cwd, **environment)


def train_each(argument_lists: list[list[str]], cwd: Path) -> list[dict[str, Any]]:
    """Run `lipcert.train` on each list of arguments, all in one process: `exit` code, `stdout` and `stderr` of each."""
    return [_ask(arguments, cwd) for arguments in argument_lists]


def _ask(arguments: list[str], cwd: Path) -> dict[str, Any]:
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    timer = threading.Timer(PATIENCE, server.kill)
    timer.start()
    server.stdin.write(request(arguments, cwd))
    server.stdin.flush()
    printed = []
    for line in server.stdout:
        if line.startswith(MARK):
            timer.cancel()
            return reply(line)
        printed.append(line)
    timer.cancel()
    _server.cache_clear()
    raise AssertionError(f"{arguments} ended the process with code {server.wait()}, which said: {''.join(printed)}")


def reply(line: str) -> dict[str, Any]:
    """Return what a reply of `tests.train_each` says."""
    return dict(json.loads(line.removeprefix(MARK)))


@cache
def _server() -> subprocess.Popen[str]:
    """Return the process that runs what `train_each` is asked for, until these tests end."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.train_each"],
        cwd=REPOSITORY,
        env=_environment(REPOSITORY),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    atexit.register(server.kill)
    return server


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
