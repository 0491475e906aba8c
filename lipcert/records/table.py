"""`certificates.csv`: rows to text and back, every float exactly."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable

from lipcert.records.format import COLUMNS, Row


def to_csv(rows: Iterable[Row]) -> str:
    """Return the rows as CSV with a header; floats by `repr`, `certified` as 0 or 1."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        values = {name: getattr(row, name) for name in COLUMNS} | {"certified": int(row.certified)}
        writer.writerow([repr(value) if isinstance(value, float) else value for value in values.values()])
    return text.getvalue()


def from_csv(text: str) -> list[Row]:
    """Return the rows of CSV text.

    Raises:
        ValueError: naming the line that is none.
    """
    lines = csv.reader(io.StringIO(text, newline=""))
    header = next(lines, None)
    if header != list(COLUMNS):
        raise ValueError(f"Expected the columns {','.join(COLUMNS)}, got {','.join(header or [])}.")
    return [_row(values, number) for number, values in enumerate(lines, start=2)]


def _row(values: list[str], line: int) -> Row:
    if len(values) != len(COLUMNS):
        raise ValueError(f"Expected {len(COLUMNS)} values in line {line}, got {len(values)}.")
    cells = dict(zip(COLUMNS, values, strict=True))
    if cells["certified"] not in ("0", "1"):
        raise ValueError(f"Expected 0 or 1 under `certified` in line {line}, got {cells['certified']!r}.")
    try:
        row = Row(
            index=int(cells["index"]),
            label=int(cells["label"]),
            prediction=int(cells["prediction"]),
            epsilon=float(cells["epsilon"]),
            margin=float(cells["margin"]),
            certified=cells["certified"] == "1",
            lipschitz=float(cells["lipschitz"]),
            radius=float(cells["radius"]),
            rounding=float(cells["rounding"]),
            stage=cells["stage"],
        )
    except ValueError as error:
        raise ValueError(f"Line {line} holds no row of certificates: {error}.") from error
    if any(math.isnan(value) for value in (row.epsilon, row.margin, row.lipschitz, row.radius, row.rounding)):
        raise ValueError(f"Line {line} holds a NaN.")
    return row
