"""Runs command lines in processes of their own, new or forked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.forks import PATIENCE, REPOSITORY, Fork
from tests.train_each import MARK, request

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


def python(
    *arguments: str, cwd: Path, importing: Path = REPOSITORY, stdin: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a new Python in folder `cwd`, with the packages of folder `importing`."""
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


def start(*arguments: str, cwd: Path, stdin: str = "", **environment: str) -> Fork:
    """Start `python ARGUMENTS` in folder `cwd`, in a fork of a process that has imported everything."""
    return Fork(*arguments, cwd=cwd, environment=_environment(REPOSITORY, **environment), stdin=stdin)


def forked(*arguments: str, cwd: Path, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS` as `start` does."""
    return start(*arguments, cwd=cwd, stdin=stdin, **environment).wait()


def _environment(importing: Path, **added: str) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("LIPCERT", "HYDRA", "WANDB"))}
    return {**inherited, "PYTHONPATH": str(importing), "PYTHONWARNINGS": "ignore", **added}


def train(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m lipcert.train`."""
    return forked("-m", "lipcert.train", *arguments, cwd=cwd, **environment)


def train_each(argument_lists: list[list[str]], cwd: Path, **environment: str) -> list[dict[str, Any]]:
    """Run `lipcert.train` on each list of arguments, all in one process: `exit` code, `stdout` and `stderr` of each."""
    asked = "".join(request(arguments, cwd) for arguments in argument_lists)
    done = forked("-m", "tests.train_each", cwd=cwd, stdin=asked, **environment)
    outcomes = [json.loads(line.removeprefix(MARK)) for line in done.stdout.splitlines() if line.startswith(MARK)]
    assert len(outcomes) == len(argument_lists), f"the process ended with {done.returncode}: {done.stdout}{done.stderr}"
    return outcomes


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
