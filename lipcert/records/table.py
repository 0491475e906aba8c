"""CSV files: columns of one kind each, values to text and back, every float exactly."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

TRUTHS = {"0": False, "1": True}


def to_csv(columns: Iterable[str], lines: Iterable[Sequence[Any]]) -> str:
    """Return CSV text below a header of `columns`; floats by `repr`, truth as 0 or 1."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(value) for value in line] for line in lines)
    return text.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    return repr(value) if isinstance(value, float) else value


def from_csv(text: str, columns: Mapping[str, type]) -> list[list[Any]]:
    """Return the lines of CSV text below its header; `columns`: their kinds by name: int, float, bool or str.

    Raises:
        ValueError: for another header, or naming the line that holds something else; NaN is refused.
    """
    try:
        header, *lines = list(csv.reader(io.StringIO(text, newline=""))) or [[]]
    except csv.Error as error:
        raise ValueError(f"It is no CSV: {error}.") from error
    if header != list(columns):
        raise ValueError(f"Expected the columns {','.join(columns)}, got {','.join(header)}.")
    return [_values(cells, columns, number) for number, cells in enumerate(lines, start=2)]


def _values(cells: list[str], columns: Mapping[str, type], line: int) -> list[Any]:
    if len(cells) != len(columns):
        raise ValueError(f"Expected {len(columns)} values in line {line}, got {len(cells)}.")
    try:
        values = [_value(cell, kind) for cell, kind in zip(cells, columns.values(), strict=True)]
    except ValueError as error:
        raise ValueError(f"Line {line} holds no row: {error}.") from error
    if any(isinstance(value, float) and math.isnan(value) for value in values):
        raise ValueError(f"Line {line} holds a NaN.")
    return values


def _value(cell: str, kind: type) -> Any:
    if kind is not bool:
        return kind(cell)
    if cell not in TRUTHS:
        raise ValueError(f"expected 0 or 1, got {cell!r}")
    return TRUTHS[cell]
