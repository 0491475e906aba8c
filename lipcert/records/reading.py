"""Reads a record back: both files, whole and fitting each other, or an error that says what is wrong."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lipcert.records.decode import decode, read_object
from lipcert.records.format import COLUMNS, FORMAT, Contents, Record, Row, RowsFile, Totals
from lipcert.records.table import from_csv
from lipcert.system.files import read_bytes


def read_record(path: str | Path) -> Record:
    """Return the record whose `certificate.json` lies at `path`; its rows are read from the file beside it.

    Checked: both files are whole and fit each other, with one row an image and epsilon. Nothing is recomputed.

    Raises:
        FileNotFoundError: if one of the two files is missing.
        ValueError: with the reason, for files that are damaged, edited or of another format.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such record; give the path of a certificate.json.")
    contents, totals, rows_file = _read_json(path)
    rows_path = path.parent / rows_file.file
    if not rows_path.is_file():
        raise FileNotFoundError(f"{rows_path} is missing; it belongs beside {path.name} and holds its rows.")
    try:
        content = read_bytes(rows_path)
    except ValueError as error:
        raise ValueError(f"{rows_path} is refused: {error}.") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != rows_file.sha256:
        raise ValueError(f"{rows_path} was changed: its SHA-256 is {digest}, {path.name} says {rows_file.sha256}.")
    try:
        rows = tuple(Row(*values) for values in from_csv(content.decode(), COLUMNS))
        _check_rows(rows, contents, rows_file.count)
    except ValueError as error:
        raise ValueError(f"{rows_path} does not fit {path.name}: {error}") from error
    return Record(contents, totals, rows_file, rows)


def _read_json(path: Path) -> tuple[Contents, tuple[Totals, ...], RowsFile]:
    try:
        content = read_object(path, FORMAT)
        totals = _taken(content, "totals")
        rows_file = decode(RowsFile, _taken(content, "rows"), "rows")
        if Path(rows_file.file).name != rows_file.file:
            raise ValueError(f"expected the name of a file beside it in 'rows.file', got {rows_file.file!r}")
        if not isinstance(totals, list):
            raise ValueError(f"expected a list in 'totals', got {totals!r}")
        decoded = tuple(decode(Totals, each, f"totals[{index}]") for index, each in enumerate(totals))
        return decode(Contents, content, "the record"), decoded, rows_file
    except ValueError as error:
        raise ValueError(f"{path} is no record of certificates: {error}.") from error


def _taken(content: dict[str, Any], key: str) -> object:
    if key not in content:
        raise ValueError(f"the record has no {key!r}")
    return content.pop(key)


def _check_rows(rows: Sequence[Row], contents: Contents, count: int) -> None:
    """Raise ValueError unless there is one row an image and epsilon, in order, each with values that can be."""
    if len(rows) != count:
        raise ValueError(f"expected {count} rows, got {len(rows)}.")
    if len(contents.epsilons) * contents.data.num_images != count:
        raise ValueError(
            f"{count} rows are not {contents.data.num_images} images at {len(contents.epsilons)} epsilons."
        )
    if not all(math.isfinite(each) and each > 0 for each in contents.epsilons) or len(set(contents.epsilons)) < len(
        contents.epsilons
    ):
        raise ValueError(f"expected positive epsilons, each once, got {list(contents.epsilons)}.")
    expected = [(epsilon, index) for epsilon in contents.epsilons for index in range(contents.data.num_images)]
    if [(row.epsilon, row.index) for row in rows] != expected:
        raise ValueError("expected one row an image for each epsilon, in order.")
    stages = {stage.name for stage in contents.stages}
    for number, row in enumerate(rows, start=2):
        if not (0 <= row.label < contents.data.num_classes and 0 <= row.prediction < contents.data.num_classes):
            raise ValueError(f"line {number} holds a class outside 0 to {contents.data.num_classes - 1}.")
        if row.certified != bool(row.stage) or (row.stage and row.stage not in stages):
            raise ValueError(f"line {number} holds `certified` {int(row.certified)} with stage {row.stage!r}.")
