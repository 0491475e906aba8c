"""Signals end a run at once, with their exit code and the command that goes on."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from pytorch_lightning.utilities.exceptions import SIGTERMException

from lipcert.commands.application import run_command
from lipcert.system.errors import Interrupted
from lipcert.system.overrides import quoted
from lipcert.training.resume import interruption
from lipcert.training.resume.interruption import interruptible


@pytest.fixture(name="run")
def fixture_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run's configuration, and what to say of it."""
    monkeypatch.setattr(interruption, "how_to_go_on", lambda folder: f"Go on in {folder.name}.")
    (tmp_path / "run" / ".hydra").mkdir(parents=True)
    (tmp_path / "run" / ".hydra" / "config.yaml").touch()
    return tmp_path / "run"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals(number: signal.Signals, code: int, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inherited = signal.signal(number, signal.SIG_DFL)

    def command() -> None:
        with interruptible(run):
            os.kill(os.getpid(), number)
            pytest.fail("went on")

    with pytest.raises(SystemExit) as ended:
        run_command(command)
    assert ended.value.code == code
    assert capsys.readouterr().err == f"error: ended by {number.name}. Go on in run.\n"
    assert signal.signal(number, inherited) is signal.SIG_DFL


def test_an_ignored_signal_stays_ignored(run: Path) -> None:
    """As SIGINT in a shell's background."""
    inherited = signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interruptible(run):
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.signal(signal.SIGINT, inherited) is signal.SIG_IGN


def test_lightning_ends_between_batches(run: Path) -> None:
    """Its own exception would exit with 0."""
    with pytest.raises(Interrupted) as ended, interruptible(run):
        raise SIGTERMException
    assert ended.value.code == 143


@pytest.mark.parametrize("started", [True, False])
def test_errors_of_the_system_say_how_to_go_on_with_what_has_started(
    started: bool, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not started:
        (run / ".hydra" / "config.yaml").unlink()

    def command() -> None:
        with interruptible(run):
            raise OSError(28, "No space left on device", "here.ckpt")

    with pytest.raises(SystemExit) as ended:
        run_command(command)
    assert ended.value.code == 1
    advice = " Go on in run." if started else ""
    message = f"here.ckpt: No space left on device. Make room; what was written before is kept.{advice}"
    assert capsys.readouterr().err == f"error: {message}\n"


@pytest.mark.parametrize("path", ["/a/b-c_d.e", "/a b/c", "/a,b", "/it's", "/x=y", "/ü/(1)", "/${a"])
def test_paths_as_overrides(path: str) -> None:
    parsed = OverridesParser.create().parse_override(f"hydra.run.dir={quoted(path)}")
    assert parsed.value() == path
    assert Path(str(parsed.value())) == Path(path)
