"""Plays pages from top to bottom, each in a fork of one process that has imported everything once.

Reads pages from standard input, one a line; answers with one line of JSON: what did not work, or nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

from tests.documentation.pages import Block, blocks, commands
from tests.documentation.processes import run_module
from tests.documentation.rules import TINY, Place, execute

PRELOADED = ("lipcert.training.run", "lipcert.jobs.certify", "lipcert.jobs.soundness", "lipcert.recheck")

OWN_NETWORK = """import torch
from torch import nn


def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


if __name__ == "__main__":
    torch.save(build().state_dict(), "mine.pt")
"""
"""What README.md calls my_module."""


def prepare(folder: Path) -> None:
    """Make what pages take for granted: a trained run called RUN, a network of one's own."""
    os.chdir(folder)
    run_module(["python", "-m", "lipcert.train", "hydra.run.dir=RUN", *TINY, "method=bcp"])
    (folder / "my_module.py").write_text(OWN_NETWORK)
    run_module(["python", "-m", "my_module"])


def play(page: str, folder: Path) -> list[str]:
    """Write the files of a page, run its Python and its commands; return what did not work."""
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    namespace: dict[str, object] = {"__name__": "page"}
    failures: list[str] = []
    listed = blocks(page)
    for index, block in enumerate(listed):
        rest = "\n".join(each.text for each in listed[index:])
        if block.title is not None:
            target = folder / block.title
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text + "\n")
        elif block.language == "python":
            failures += run_python(block, namespace)
        elif block.language == "bash":
            for line, command in commands(block):
                failures += run_command(command, line, Place(page, folder, rest))
    return failures


def run_python(block: Block, namespace: dict[str, object]) -> list[str]:
    """Execute a block in the namespace of the page."""
    try:
        exec(compile(block.text, f"line {block.line}", "exec"), namespace)
    except Exception:
        return [f"line {block.line}: {traceback.format_exc()}"]
    return []


def run_command(command: str, line: int, place: Place) -> list[str]:
    """Execute a command by the table of rules."""
    try:
        execute(command, place)
    except Exception as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        return [f"line {line}: {command}\n    {type(error).__name__}: {error}{cause}"]
    return []


def in_a_fork(page: str, prepared: Path) -> list[str]:
    """Play a page in a folder of its own, in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, outcome = Path(scratch) / "work", Path(scratch) / "outcome"
        shutil.copytree(prepared, folder)
        child = os.fork()
        if child == 0:
            os.dup2(2, 1)  # standard output is for answers
            try:
                outcome.write_text(json.dumps(play(page, folder)))
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        return json.loads(outcome.read_text()) if outcome.exists() else [f"{page}: the process died"]


def main() -> None:
    """Answer until standard input ends."""
    for name in PRELOADED:
        __import__(name)
    with tempfile.TemporaryDirectory() as scratch:
        prepare(Path(scratch))
        for line in sys.stdin:
            sys.stdout.write(json.dumps(in_a_fork(line.strip(), Path(scratch))) + "\n")
            sys.stdout.flush()
        os.chdir("/")


if __name__ == "__main__":
    main()
