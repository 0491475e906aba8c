"""`metrics.csv` holds every row exactly once, whenever a run was interrupted."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from lipcert.training.logging.table import MetricsTable, read_rows, rewind

EPOCHS = 4
BATCHES = 10


def _log(folder: Path, first: int, end: int) -> None:
    """Log epochs as Lightning does: validation, then the epoch."""
    table = MetricsTable(str(folder))
    for epoch in range(first, end):
        step = (epoch + 1) * BATCHES - 1
        table.log_metrics({"val/accuracy": epoch / 7, "epoch": epoch}, step)
        table.log_metrics(_row(epoch), step)


def _row(epoch: int) -> dict[str, float]:
    return {"train/loss": 1 / (epoch + 3), "epoch": epoch}


@pytest.fixture(name="whole")
def fixture_whole(tmp_path: Path) -> bytes:
    """The table of an uninterrupted run."""
    (tmp_path / "whole").mkdir()
    _log(tmp_path / "whole", 0, EPOCHS)
    return (tmp_path / "whole" / "metrics.csv").read_bytes()


def test_rows_and_columns(whole: bytes) -> None:
    rows = list(csv.DictReader(whole.decode().splitlines()))
    assert list(rows[0]) == ["epoch", "step", "train/loss", "val/accuracy"]
    assert [row["step"] for row in rows] == ["9", "19", "29", "39"]
    assert [float(row["train/loss"]) for row in rows if row["train/loss"]] == [1 / 3, 1 / 4, 1 / 5, 1 / 6]
    assert [float(row["val/accuracy"]) for row in rows if row["val/accuracy"]] == [0, 1 / 7, 2 / 7, 3 / 7]


@pytest.mark.parametrize("done", range(EPOCHS))
def test_interrupted_anywhere(tmp_path: Path, whole: bytes, done: int) -> None:
    """The last good checkpoint has `done` epochs behind it; the table is cut at every byte after its validation row."""
    path = tmp_path / "metrics.csv"
    lines = whole.splitlines(keepends=True)
    written = len(b"".join(lines[: 2 * done])) if done else 0
    last = {**_row(done - 1), "step": done * BATCHES - 1} if done else {}
    for length in range(written, len(whole) + 1):
        path.write_bytes(whole[:length])
        rewind(path, done * BATCHES, last)
        assert len(read_rows(path)) == done
        assert path.exists() == bool(done)
        if length % 40 == 0:
            _log(tmp_path, done, EPOCHS)
            assert path.read_bytes() == whole


def test_new_columns_widen_the_table(tmp_path: Path, whole: bytes) -> None:
    (tmp_path / "metrics.csv").write_bytes(whole)
    MetricsTable(str(tmp_path)).log_metrics({"new": 5.0}, 50)
    rows = read_rows(tmp_path / "metrics.csv")
    assert rows[-1] == {"new": "5.0", "step": "50"}
    (tmp_path / "before.csv").write_bytes(whole)
    assert rows[:-1] == read_rows(tmp_path / "before.csv")
