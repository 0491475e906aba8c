"""Every command and every piece of Python in the README, the documentation and the experiments' pages works."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.documentation.pages import PAGES, Block, blocks, commands
from tests.documentation.processes import CommandError
from tests.documentation.rules import TINY, Place, execute
from tests.running import forked, train

WITH_CODE = [page for page in PAGES if any(each.language in ("python", "bash") for each in blocks(page))]
LONGEST_EXAMPLE = 40
"""Lines of a file that a page shows."""


OWN_NETWORK = """import torch
from torch import nn


def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


if __name__ == "__main__":
    torch.save(build().state_dict(), "mine.pt")
"""
"""What README.md calls my_module."""


@pytest.fixture(scope="module", name="prepared")
def fixture_prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pages take for granted: a trained run called RUN, a network of one's own."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "my_module.py").write_text(OWN_NETWORK)
    for done in (
        train("hydra.run.dir=RUN", *TINY, "method=bcp", cwd=folder),
        forked("-m", "my_module", cwd=folder),
    ):
        assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("page", WITH_CODE)
def test_page_works(page: str, prepared: Path, tmp_path: Path) -> None:
    folder, outcome = tmp_path / "work", tmp_path / "outcome"
    shutil.copytree(prepared, folder)
    done = forked("-m", "tests.documentation.worker", page, str(outcome), cwd=folder, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert json.loads(outcome.read_text()) == []


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
