"""Every command and every piece of Python in the README, the documentation and the experiments' pages works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.documentation.pages import PAGES, ROOT, Block, blocks, commands
from tests.documentation.processes import CommandError
from tests.documentation.rules import Place, execute

WITH_CODE = [page for page in PAGES if any(each.language in ("python", "bash") for each in blocks(page))]
LONGEST_EXAMPLE = 40
"""Lines of a file that a page shows."""


@pytest.fixture(scope="module", name="play")
def fixture_play() -> Iterator[Callable[[str], list[str]]]:
    """A function that plays a page and returns what did not work."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.documentation.worker"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None

        def play(page: str) -> list[str]:
            worker.stdin.write(f"{page}\n")
            worker.stdin.flush()
            answer = worker.stdout.readline()
            assert answer, "the worker died; its standard error says why"
            return json.loads(answer)

        yield play
        worker.stdin.close()
        assert worker.wait(30) == 0


@pytest.mark.parametrize("page", WITH_CODE)
def test_page_works(page: str, play: Callable[[str], list[str]]) -> None:
    assert play(page) == []


def test_an_unknown_command_fails(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="no rule"):
        execute("python -m lipcert.nonsense", Place("README.md", tmp_path, ""))


@pytest.mark.parametrize("command", ["pip install 'lipcert[nonsense]'", "make nonsense"])
def test_what_does_not_exist_fails(command: str, tmp_path: Path) -> None:
    with pytest.raises(CommandError):
        execute(command, Place("README.md", tmp_path, ""))


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/extending/")])
def test_worked_examples_are_short(page: str) -> None:
    for block in blocks(page):
        assert len(block.text.splitlines()) < LONGEST_EXAMPLE, block.title


def test_commands_are_found() -> None:
    fenced = Block("bash", None, "make test  # all\n\n# a remark\npython -m x \\\n    --y", 10)
    assert list(commands(fenced)) == [(10, "make test  # all"), (13, "python -m x --y")]
    found = [command for block in blocks("docs/scaling.md") for _, command in commands(block)]
    assert sum("torchrun" in command for command in found) == 1
