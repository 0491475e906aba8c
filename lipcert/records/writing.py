"""Writes a record: the rows first, `certificate.json` last, so that a record with it is whole."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path

from lipcert.records.format import COLUMNS, FORMAT, Contents, Record, Row, RowsFile
from lipcert.records.table import to_csv
from lipcert.records.totals import totals
from lipcert.system.files import write_json, write_text

JSON_NAME = "certificate.json"
ROWS_NAME = "certificates.csv"


def write_record(folder: Path, contents: Contents, rows: Sequence[Row]) -> Record:
    """Write both files of a record into `folder`, in place of an earlier one; return what was written.

    The rows are sorted by epsilon in the order of `contents.epsilons`, then by index.

    Raises:
        ValueError: for a NaN or an infinite number among the contents.
        OSError: if `folder` cannot be written.
    """
    place = {epsilon: position for position, epsilon in enumerate(contents.epsilons)}
    ordered = tuple(sorted(rows, key=lambda row: (place[row.epsilon], row.index)))
    text = to_csv(COLUMNS, map(attrgetter(*COLUMNS), ordered))
    summed = totals(ordered, contents.epsilons, [stage.name for stage in contents.stages])
    rows_file = RowsFile(ROWS_NAME, hashlib.sha256(text.encode()).hexdigest(), len(ordered))
    said = asdict(contents)
    seconds = said.pop("seconds")
    content = {"format": FORMAT, **said, "totals": [asdict(each) for each in summed], "rows": asdict(rows_file)}
    (folder / JSON_NAME).unlink(missing_ok=True)  # never one record's summary beside another's rows
    write_text(folder / ROWS_NAME, text)
    write_json(folder / JSON_NAME, {**content, "seconds": seconds})
    return Record(contents, summed, rows_file, ordered)
