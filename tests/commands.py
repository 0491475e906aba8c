"""Runs command lines in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

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


def python(
    *arguments: str, cwd: Path, importing: Path = REPOSITORY, stdin: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run Python in folder `cwd`, with the packages of folder `importing`."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("LIPCERT", "HYDRA", "WANDB"))}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**inherited, "PYTHONPATH": str(importing), "PYTHONWARNINGS": "ignore", **environment},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def train(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m lipcert.train`."""
    return python("-m", "lipcert.train", *arguments, cwd=cwd, **environment)


def train_each(argument_lists: list[list[str]], cwd: Path) -> list[dict[str, object]]:
    """Run `lipcert.train` on each list of arguments, all in one process: `exit` code and `stderr` of each."""
    done = python("-m", "tests.train_each", cwd=cwd, stdin=json.dumps(argument_lists))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
