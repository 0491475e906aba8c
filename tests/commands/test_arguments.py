"""What a user types: commas for lists, except in a sweep; a path as the first word; --version."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from lipcert.commands.application import with_lists, with_path
from lipcert.commands.report import main as report
from lipcert.commands.train import main as train
from lipcert.system.overrides import for_hydra
from lipcert.version import __version__
from tests.running import python


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("epsilon=0.1,0.25", "epsilon=[0.1,0.25]"),
        ("epsilon=0.1, 0.25", "epsilon=[0.1, 0.25]"),
        ("epsilon=1e-3,36", "epsilon=[1e-3,36]"),
        ("stages=global,tight", "stages=[global,tight]"),
        ("stages=tight-100", "stages=[tight-100]"),
        ("stages=null", "stages=null"),
        ("stages=[global]", "stages=[global]"),
        ("epsilon=0.1", "epsilon=0.1"),
        ("epsilon=null", "epsilon=null"),
        ("epsilon=[0.1,0.25]", "epsilon=[0.1,0.25]"),
        ("epsilon=range(1,3)", "epsilon=range(1,3)"),
        ("output=a,b", "output=a,b"),
        ("checkpoint=epsilon=0.1,0.2", "checkpoint=epsilon=0.1,0.2"),
        ("--help", "--help"),
    ],
)
def test_lists(typed: str, meant: str) -> None:
    assert with_lists(["limit=3", typed]) == ["limit=3", meant]


@pytest.mark.parametrize("sweep", ["-m", "--multirun", "--multi", "hydra.mode=MULTIRUN"])
def test_sweeps_keep_their_commas(sweep: str) -> None:
    assert with_lists(["epsilon=0.1,0.25", sweep]) == ["epsilon=0.1,0.25", sweep]


def test_a_path_as_the_first_word_is_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seed=1").mkdir()
    assert with_path(["runs/first", "limit=3"]) == ["checkpoint=runs/first", "limit=3"]
    assert with_path(["seed=1"]) == ["checkpoint='seed=1'"]
    for words in ([], ["limit=3"], ["-m", "seed=1"], ["--help"]):
        assert with_path(words) == words


def test_paths_of_homes_and_sweeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "seed=1").mkdir()
    typed = ["data.root=~/my pictures", "checkpoint=seed=1", "output=seed=2", "data.dataset.root=~/x", "--help"]
    home, sweep, absent, argument, flag = for_hydra(typed)
    parsed = OverridesParser.create().parse_overrides([home, sweep, argument])
    assert [each.value() for each in parsed] == ["/home/me/my pictures", "seed=1", "/home/me/x"]
    assert argument.startswith("++data.dataset.root=")
    assert (absent, flag) == ("output=seed=2", "--help")


@pytest.mark.parametrize("command", [train, report])
def test_version(
    command: Callable[[], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["lipcert", "--version"])
    with contextlib.suppress(SystemExit):
        command()
    assert capsys.readouterr().out == f"lipcert {__version__}\n"


LEAN = """import sys
import lipcert, lipcert.exporting, lipcert.jobs.certify
assert callable(lipcert.certify)
assert not {"pytorch_lightning", "torchmetrics", "torchvision", "scipy", "torch._dynamo"} & sys.modules.keys()"""


def test_only_training_imports_lightning(tmp_path: Path) -> None:
    done = python("-c", LEAN, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
