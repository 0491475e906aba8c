"""Signals end a run at once, with their exit code and the command that goes on."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from pytorch_lightning.utilities.exceptions import SIGTERMException

from lipcert.commands import Interrupted, run_command
from lipcert.job_names import quoted
from lipcert.training.interruption import interruptible


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals(number: signal.Signals, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    inherited = signal.signal(number, signal.SIG_DFL)

    def command() -> None:
        with interruptible("Do this to go on."):
            os.kill(os.getpid(), number)
            pytest.fail("went on")

    with pytest.raises(SystemExit) as ended:
        run_command(command)
    assert ended.value.code == code
    assert capsys.readouterr().err == f"error: ended by {number.name}. Do this to go on.\n"
    assert signal.signal(number, inherited) is signal.SIG_DFL


def test_an_ignored_signal_stays_ignored() -> None:
    """As SIGINT in a shell's background."""
    inherited = signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interruptible(""):
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.signal(signal.SIGINT, inherited) is signal.SIG_IGN


def test_lightning_ends_between_batches() -> None:
    """Its own exception would exit with 0."""
    with pytest.raises(Interrupted) as ended, interruptible(""):
        raise SIGTERMException
    assert ended.value.code == 143


def test_errors_of_the_system_say_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        with interruptible("Do this to go on."):
            raise OSError(28, "No space left on device", "here.ckpt")

    with pytest.raises(SystemExit) as ended:
        run_command(command)
    assert ended.value.code == 1
    message = "here.ckpt: No space left on device. Make room; what was written before is kept. Do this to go on."
    assert capsys.readouterr().err == f"error: {message}\n"


@pytest.mark.parametrize("path", ["/a/b-c_d.e", "/a b/c", "/a,b", "/it's", "/x=y", "/ü/(1)", "/${a"])
def test_paths_as_overrides(path: str) -> None:
    parsed = OverridesParser.create().parse_override(f"hydra.run.dir={quoted(path)}")
    assert parsed.value() == path
    assert Path(str(parsed.value())) == Path(path)
