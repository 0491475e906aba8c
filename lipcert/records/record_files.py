"""A record to files and back: the rows, then `certificate.json`, so that a record with it is whole."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path

from lipcert.records.format import COLUMNS, FORMAT, Contents, Record, Row, RowsFile, Totals
from lipcert.records.typed_text import decode, from_csv, read_object, to_csv
from lipcert.system.files import read_bytes, write_json, write_text

JSON_NAME = "certificate.json"
ROWS_NAME = "certificates.csv"


def totals(rows: Sequence[Row], epsilons: Sequence[float], stages: Sequence[str]) -> tuple[Totals, ...]:
    """Return clean and certified accuracy at each epsilon, and how many images each stage certified."""
    by_epsilon = {epsilon: [row for row in rows if row.epsilon == epsilon] for epsilon in epsilons}
    return tuple(
        Totals(
            epsilon=epsilon,
            num_images=len(own),
            clean_accuracy=sum(row.prediction == row.label for row in own) / max(1, len(own)),
            certified_accuracy=sum(row.certified for row in own) / max(1, len(own)),
            certified_by_stage={stage: sum(row.certified and row.stage == stage for row in own) for stage in stages},
        )
        for epsilon, own in by_epsilon.items()
    )


def write_record(folder: Path, contents: Contents, rows: Sequence[Row]) -> Record:
    """Write both files of a record into `folder`, in place of an earlier one; return what was written.

    The rows are sorted by epsilon in the order of `contents.epsilons`, then by index.

    Raises:
        ValueError: for rows that `read_record` would refuse, for a NaN or an infinite number among the contents.
        OSError: if `folder` cannot be written.
    """
    place = {epsilon: position for position, epsilon in enumerate(contents.epsilons)}
    ordered = tuple(sorted(rows, key=lambda row: (place[row.epsilon], row.index)))
    _check_rows(ordered, contents, len(rows))
    text = to_csv(COLUMNS, map(attrgetter(*COLUMNS), ordered))
    summed = totals(ordered, contents.epsilons, [stage.name for stage in contents.stages])
    rows_file = RowsFile(ROWS_NAME, hashlib.sha256(text.encode()).hexdigest(), len(ordered))
    said = asdict(contents)
    seconds = said.pop("seconds")
    content = {"format": FORMAT, **said, "totals": [asdict(each) for each in summed], "rows": asdict(rows_file)}
    (folder / JSON_NAME).unlink(missing_ok=True)  # never one record's summary beside another's rows
    write_text(folder / ROWS_NAME, text)
    write_json(folder / JSON_NAME, {**content, "seconds": seconds})
    return Record(contents, summed, ordered)


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
    contents, summed, rows_file = _read_json(path)
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
    return Record(contents, summed, rows)


def _read_json(path: Path) -> tuple[Contents, tuple[Totals, ...], RowsFile]:
    try:
        content = read_object(path, FORMAT)
        for key in ("totals", "rows"):
            if key not in content:
                raise ValueError(f"the record has no {key!r}")
        summed = decode(tuple[Totals, ...], content.pop("totals"), "totals")
        rows_file = decode(RowsFile, content.pop("rows"), "rows")
        if Path(rows_file.file).name != rows_file.file:
            raise ValueError(f"expected the name of a file beside it in 'rows.file', got {rows_file.file!r}")
        return decode(Contents, content, "the record"), summed, rows_file
    except ValueError as error:
        raise ValueError(f"{path} is no record of certificates: {error}.") from error


def _check_rows(rows: Sequence[Row], contents: Contents, count: int) -> None:
    """Raise ValueError unless there is one row an image and epsilon, in order, each with values that can be."""
    if len(rows) != count:
        raise ValueError(f"expected {count} rows, got {len(rows)}.")
    if len(contents.epsilons) * contents.data.num_images != count:
        raise ValueError(
            f"{count} rows are not {contents.data.num_images} images at {len(contents.epsilons)} epsilons."
        )
    epsilons = contents.epsilons
    if not all(0 < epsilon < math.inf for epsilon in epsilons) or len(set(epsilons)) < len(epsilons):
        raise ValueError(f"expected positive epsilons, each once, got {list(epsilons)}.")
    expected = [(epsilon, index) for epsilon in epsilons for index in range(contents.data.num_images)]
    if [(row.epsilon, row.index) for row in rows] != expected:
        raise ValueError("expected one row an image for each epsilon, in order.")
    stages = {stage.name for stage in contents.stages}
    for number, row in enumerate(rows, start=2):
        if not (0 <= row.label < contents.data.num_classes and 0 <= row.prediction < contents.data.num_classes):
            raise ValueError(f"line {number} holds a class outside 0 to {contents.data.num_classes - 1}.")
        if row.certified != bool(row.stage) or (row.stage and row.stage not in stages):
            raise ValueError(f"line {number} holds `certified` {int(row.certified)} with stage {row.stage!r}.")
