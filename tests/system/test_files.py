"""A second name of a file, where there are links and where there are none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from lipcert.system.files import link, write_bytes


def test_link_to_itself_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "first").write_text("one")
    link(tmp_path / "first", tmp_path / "second")
    link(tmp_path / "first", tmp_path / "second")
    assert {path.name for path in tmp_path.iterdir()} == {"first", "second"}


def test_link_where_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    write_bytes(tmp_path / "a", b"1")
    write_bytes(tmp_path / "a", b"2", tmp_path / "b")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"2", "b": b"1"}
