"""Progress bars of preparations: on terminals alone, and only where they are asked for; lines in logs."""

from __future__ import annotations

import pytest

from lipcert.system import progress as module
from lipcert.system.progress import progress


def _drawn(capsys: pytest.CaptureFixture[str], shown: bool = True) -> str:
    with progress("Decoding", 10, shown=shown) as advance:
        advance(4)
        advance()
    output = capsys.readouterr()
    assert output.out == ""
    return output.err


def test_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes any stream for a terminal
    monkeypatch.setenv("COLUMNS", "80")
    drawn = _drawn(capsys)
    assert "Decoding" in drawn
    assert "5/10" in drawn
    assert _drawn(capsys, shown=False) == ""


def test_in_a_file(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    assert _drawn(capsys) == ""


def test_in_a_log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    clock = iter([0.0, 20.0, 40.0, 50.0, 80.0, 100.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with caplog.at_level("INFO", module.logger.name), progress("certifying", 50) as advance:
        for _ in range(5):
            advance(10)
    assert [each.getMessage() for each in caplog.records] == [
        "certifying: 20 of 50, 0:01:00 left",
        "certifying: 40 of 50, 0:00:20 left",
    ]
