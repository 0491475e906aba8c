"""The partial record: continued where it stopped, whatever stopped it; never mixed with other settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lipcert.records import JOURNAL_NAME, Journal
from tests.records.examples import batch

HEADER: dict[str, Any] = {"epsilons": [0.1], "model": {"sha256": "a"}, "image_shape": (1, 8, 8)}


def _begun(folder: Path, batches: int = 2) -> Path:
    journal = Journal(folder, HEADER)
    for first in range(batches):
        journal.append(batch(2 * first))
    journal.close()
    return folder / JOURNAL_NAME


def _reopened(folder: Path, **arguments: Any) -> Journal:
    journal = Journal(folder, HEADER, **arguments)
    journal.close()
    return journal


def test_batches_come_back_exactly(tmp_path: Path) -> None:
    path = _begun(tmp_path)
    before = path.read_bytes()
    journal = _reopened(tmp_path)
    assert journal.batches == [batch(0), batch(2)]
    assert journal.images_done == 4
    assert path.read_bytes() == before


def test_one_line_a_batch_behind_a_header(tmp_path: Path) -> None:
    lines = [json.loads(line) for line in _begun(tmp_path).read_text().splitlines()]
    assert lines[0] == {"header": {"epsilons": [0.1], "model": {"sha256": "a"}, "image_shape": [1, 8, 8]}}
    assert [line["count"] for line in lines[1:]] == [2, 2]


def test_appended_behind_earlier_batches(tmp_path: Path) -> None:
    _begun(tmp_path)
    journal = Journal(tmp_path, HEADER)
    journal.append(batch(4))
    journal.close()
    assert _reopened(tmp_path).batches == [batch(0), batch(2), batch(4)]


@pytest.mark.parametrize("kept", [1, 40, -1])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, kept: int) -> None:
    path = _begun(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:kept])
    assert _reopened(tmp_path).batches == [batch(0)]
    assert path.read_bytes() == b"".join(lines[:-1])


def test_a_last_line_that_never_reached_the_disk_is_cut_off(tmp_path: Path) -> None:
    path = _begun(tmp_path)
    path.write_bytes(path.read_bytes() + b"\0" * 30 + b"\n")
    assert _reopened(tmp_path).batches == [batch(0), batch(2)]


@pytest.mark.parametrize("content", [b"", b'{"header": {"epsi'])
def test_a_torn_header_is_written_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / JOURNAL_NAME).write_bytes(content)
    journal = Journal(tmp_path, HEADER)
    journal.append(batch(0))
    journal.close()
    assert _reopened(tmp_path).batches == [batch(0)]


def test_other_settings_are_refused(tmp_path: Path) -> None:
    path = _begun(tmp_path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="other settings") as refused:
        Journal(tmp_path, {**HEADER, "epsilons": [0.2], "new": 1})
    assert "epsilons [0.1] there and [0.2] here" in str(refused.value)
    assert "new None there and 1 here" in str(refused.value)
    assert "sha256" not in str(refused.value)
    assert path.read_bytes() == before


def test_other_settings_begin_anew_when_asked(tmp_path: Path) -> None:
    _begun(tmp_path)
    journal = Journal(tmp_path, {**HEADER, "epsilons": [0.2]}, restart=True)
    assert journal.batches == []
    journal.append(batch(0))
    journal.close()
    with pytest.raises(ValueError, match=r"epsilons \[0.2\] there and \[0.1\] here"):
        Journal(tmp_path, HEADER)


def test_restarting_keeps_batches_of_the_same_settings(tmp_path: Path) -> None:
    _begun(tmp_path)
    assert _reopened(tmp_path, restart=True).images_done == 4


def test_other_settings_without_a_batch_begin_anew(tmp_path: Path) -> None:
    _begun(tmp_path, batches=0)
    journal = Journal(tmp_path, {**HEADER, "epsilons": [0.2]})
    journal.append(batch(0))
    journal.close()
    first, *others = (tmp_path / JOURNAL_NAME).read_text().splitlines()
    assert json.loads(first)["header"]["epsilons"] == [0.2]
    assert len(others) == 1


@pytest.mark.parametrize("line", ["3\n", '{"count": 2}\n', "what\n"])
def test_a_damaged_batch_is_named(tmp_path: Path, line: str) -> None:
    path = _begun(tmp_path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], line, lines[2]]))
    with pytest.raises(ValueError, match=rf"Line 2 of .*{JOURNAL_NAME} is damaged"):
        Journal(tmp_path, HEADER)


def test_a_foreign_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL_NAME
    path.write_text('"mine"\n')
    with pytest.raises(ValueError, match="does not begin as a partial record"):
        Journal(tmp_path, HEADER)
    assert path.read_text() == '"mine"\n'


def test_one_process_at_a_time(tmp_path: Path) -> None:
    journal = Journal(tmp_path, HEADER)
    with pytest.raises(ValueError, match="in use by another process"):
        Journal(tmp_path, HEADER)
    journal.close()
    _reopened(tmp_path)


def test_removed(tmp_path: Path) -> None:
    journal = Journal(tmp_path, HEADER)
    journal.remove()
    assert list(tmp_path.iterdir()) == []
