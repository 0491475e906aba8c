"""Progress bars of preparations: on terminals alone, and only where they are asked for."""

from __future__ import annotations

import pytest

from lipcert.data.progress import progress


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
