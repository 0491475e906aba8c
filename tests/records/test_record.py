"""Records: what is written is what is read, and anything else is refused with the reason."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from lipcert.records import Record, Row, read_record, write_record
from lipcert.records.format import COLUMNS
from tests.records.examples import CONTENTS, EXECUTION, ROWS, row, written
from tests.running import contents

Content = dict[str, Any]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    record = written(tmp_path)
    assert read_record(tmp_path / "certificate.json") == record
    assert record.contents == CONTENTS
    assert set(record.rows) == set(ROWS)
    assert set(contents(tmp_path)) == {"certificate.json", "certificates.csv"}


def test_rows_are_sorted_and_exact(tmp_path: Path) -> None:
    written(tmp_path)
    lines = (tmp_path / "certificates.csv").read_text().splitlines()
    assert lines[0] == "index,label,prediction,epsilon,margin,certified,lipschitz,radius,rounding,stage"
    assert lines[1] == "0,1,1,0.1,0.1,1,0.3333333333333333,0.25,1e-07,slow"
    assert lines[2] == "1,1,0,0.1,-inf,0,0.3333333333333333,0.0,1e-07,"
    assert [line.split(",")[0] + " " + line.split(",")[3] for line in lines[1:]] == [
        *("0 0.1", "1 0.1", "2 0.1"),
        *("0 0.25", "1 0.25", "2 0.25"),
    ]


@pytest.mark.parametrize("rows", [ROWS[1:], (*ROWS[1:], ROWS[1]), (row(0, 0.25, stage="magic"), *ROWS[1:])])
def test_rows_that_would_not_be_read_are_not_written(tmp_path: Path, rows: tuple[Row, ...]) -> None:
    """A partial record that was edited by hand, say."""
    with pytest.raises(ValueError, match=r"rows|row an image|stage 'magic'"):
        write_record(tmp_path, CONTENTS, rows)
    assert list(tmp_path.iterdir()) == []


def test_the_summary(tmp_path: Path) -> None:
    written(tmp_path)
    content = json.loads((tmp_path / "certificate.json").read_text())
    assert list(content) == [
        *(
            "format",
            "lipcert_version",
            "checkpoint",
            "model",
            "data",
            "epsilons",
            "clip_input",
            "arithmetic",
            "execution",
        ),
        *("failure_probability", "stages", "norms", "totals", "rows", "seconds"),
    ]
    assert content["format"] == 1
    assert content["data"]["image_shape"] == [1, 8, 8]
    assert content["norms"]["0"] == {"lower": 0.99, "upper": 1.01}
    assert content["totals"] == [
        {
            "epsilon": 0.1,
            "num_images": 3,
            "clean_accuracy": 2 / 3,
            "certified_accuracy": 2 / 3,
            "certified_by_stage": {"fast": 1, "slow": 1},
        },
        {
            "epsilon": 0.25,
            "num_images": 3,
            "clean_accuracy": 2 / 3,
            "certified_accuracy": 1 / 3,
            "certified_by_stage": {"fast": 0, "slow": 1},
        },
    ]
    rows = (tmp_path / "certificates.csv").read_bytes()
    assert content["rows"] == {
        "file": "certificates.csv",
        "sha256": hashlib.sha256(rows).hexdigest(),
        "count": 6,
    }


def test_records_from_before_they_stated_the_execution_are_read(tmp_path: Path) -> None:
    record, path = written(tmp_path), tmp_path / "certificate.json"
    content = json.loads(path.read_text())
    assert content.pop("execution") == asdict(EXECUTION)
    path.write_text(json.dumps(content))
    assert read_record(path) == replace(record, contents=replace(record.contents, execution=None))


def test_a_record_replaces_another(tmp_path: Path) -> None:
    (tmp_path / "certificate.json").write_text("old")
    (tmp_path / "certificates.csv").write_text("old")
    record = written(tmp_path)
    assert read_record(tmp_path / "certificate.json") == record


def _edit(folder: Path, change: Callable[[Content], Any]) -> None:
    path = folder / "certificate.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _edit_rows(folder: Path, change: Callable[[list[list[str]]], Any]) -> None:
    """Change the rows and make the digest fit them."""
    path = folder / "certificates.csv"
    rows = list(csv.reader(path.read_text().splitlines()))
    change(rows)
    path.write_text("".join(",".join(row) + "\n" for row in rows))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    _edit(folder, lambda content: content["rows"].update(sha256=digest))


def _set(rows: list[list[str]], line: int, column: str, value: str) -> None:
    rows[line][list(COLUMNS).index(column)] = value


EDITS: dict[str, tuple[Callable[[Content], Any], str]] = {
    "another format": (lambda content: content.update(format=2), "expected format 1, got 2"),
    "no format": (lambda content: content.pop("format"), "expected format 1, got None"),
    "no totals": (lambda content: content.pop("totals"), "no 'totals'"),
    "totals of another kind": (lambda content: content.update(totals=3), "a list in 'totals'"),
    "no model": (lambda content: content.pop("model"), "no 'model'"),
    "foreign key": (lambda content: content.update(extra=1), "an unknown 'extra'"),
    "wrong type": (lambda content: content["data"].update(num_images="3"), "data.num_images"),
    "truth for a number": (lambda content: content["data"].update(num_images=True), "data.num_images"),
    "number for a truth": (lambda content: content.update(clip_input=0), "clip_input"),
    "bad epsilon": (lambda content: content.update(epsilons=["x"]), "epsilons[0]"),
    "nan": (lambda content: content.update(seconds=float("nan")), "it holds NaN"),
    "infinity": (lambda content: content["norms"]["0"].update(upper=float("inf")), "it holds Infinity"),
    "rows elsewhere": (lambda content: content["rows"].update(file="../certificates.csv"), "rows.file"),
    "other rows": (lambda content: content["rows"].update(sha256="c" * 64), "was changed"),
    "fewer rows": (lambda content: content["rows"].update(count=5), "expected 5 rows, got 6"),
    "more images": (lambda content: content["data"].update(num_images=4), "4 images"),
    "huge number of images": (lambda content: content["data"].update(num_images=10**15), "images"),
    "other epsilon": (lambda content: content.update(epsilons=[0.1, 0.3]), "one row an image"),
    "other stages": (lambda content: content["stages"].pop(), "stage 'slow'"),
    "fewer classes": (lambda content: content["data"].update(num_classes=1), "class outside 0 to 0"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_edited_summaries_are_refused(tmp_path: Path, edit: str) -> None:
    written(tmp_path)
    change, reason = EDITS[edit]
    _edit(tmp_path, change)
    with pytest.raises(ValueError, match="certificate") as refused:
        read_record(tmp_path / "certificate.json")
    assert reason in str(refused.value)


ROW_EDITS: dict[str, tuple[Callable[[list[list[str]]], Any], str]] = {
    "a row missing": (lambda rows: rows.pop(), "expected 6 rows, got 5"),
    "rows in another order": (lambda rows: rows.__setitem__(slice(1, 3), rows[2:0:-1]), "in order"),
    "a column missing": (lambda rows: [row.pop() for row in rows], "the columns"),
    "a column renamed": (lambda rows: _set(rows, 0, "radius", "r"), "the columns"),
    "a value missing": (lambda rows: rows[3].pop(), "10 values in line 4, got 9"),
    "no number": (lambda rows: _set(rows, 2, "margin", "much"), "Line 3 holds no row"),
    "no whole number": (lambda rows: _set(rows, 2, "index", "1.0"), "Line 3 holds no row"),
    "nan": (lambda rows: _set(rows, 2, "margin", "nan"), "Line 3 holds a NaN"),
    "neither 0 nor 1": (lambda rows: _set(rows, 2, "certified", "True"), "0 or 1"),
    "certified by nobody": (lambda rows: _set(rows, 2, "certified", "1"), "`certified` 1 with stage ''"),
    "not certified by a stage": (lambda rows: _set(rows, 1, "certified", "0"), "`certified` 0 with stage 'slow'"),
    "a class that is none": (lambda rows: _set(rows, 1, "label", "10"), "class outside 0 to 9"),
    "another epsilon": (lambda rows: _set(rows, 1, "epsilon", "0.05"), "one row an image"),
    "no rows": (lambda rows: rows.clear(), "the columns"),
}


@pytest.mark.parametrize("edit", ROW_EDITS)
def test_edited_rows_are_refused_even_with_a_digest_that_fits(tmp_path: Path, edit: str) -> None:
    written(tmp_path)
    change, reason = ROW_EDITS[edit]
    _edit_rows(tmp_path, change)
    with pytest.raises(ValueError, match="does not fit") as refused:
        read_record(tmp_path / "certificate.json")
    assert reason in str(refused.value)


def test_one_changed_byte_of_the_rows_is_noticed(tmp_path: Path) -> None:
    written(tmp_path)
    path = tmp_path / "certificates.csv"
    path.write_bytes(path.read_bytes().replace(b"0.25", b"0.26", 1))
    with pytest.raises(ValueError, match=r"certificates.csv was changed"):
        read_record(tmp_path / "certificate.json")


@pytest.mark.parametrize("name", ["certificate.json", "certificates.csv"])
def test_missing_files(tmp_path: Path, name: str) -> None:
    written(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        read_record(tmp_path / "certificate.json")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"3", b"[" * 100_000])
def test_what_is_no_record(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "certificate.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is no record of certificates"):
        read_record(path)


def test_keys_that_stand_twice_are_refused(tmp_path: Path) -> None:
    """Readers differ in which of the two they take."""
    written(tmp_path)
    path = tmp_path / "certificate.json"
    for key in ("clip_input", "lower"):
        text = path.read_text()
        path.write_text(text.replace(f'"{key}":', f'"{key}": 0, "{key}":', 1))
        with pytest.raises(ValueError, match=f"it holds '{key}' twice in one object"):
            read_record(path)
        path.write_text(text)


@pytest.mark.parametrize("name", ["certificate.json", "certificates.csv"])
def test_links_out_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "record").mkdir()
    written(tmp_path / "record")
    path = tmp_path / "record" / name
    path.rename(tmp_path / name)
    path.symlink_to(tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name} is .*a symbolic link to .*out of its folder"):
        read_record(tmp_path / "record" / "certificate.json")


def test_a_link_to_the_folder_is_no_link_out_of_it(tmp_path: Path) -> None:
    (tmp_path / "record").mkdir()
    record = written(tmp_path / "record")
    (tmp_path / "latest").symlink_to(tmp_path / "record")
    assert read_record(tmp_path / "latest" / "certificate.json") == record


@pytest.mark.parametrize("name", ["certificate.json", "certificates.csv"])
def test_files_beyond_all_measure_are_not_read(tmp_path: Path, name: str) -> None:
    written(tmp_path)
    with (tmp_path / name).open("r+b") as file:
        file.truncate(2**40)  # of which the disk holds a few blocks
    with pytest.raises(ValueError, match=rf"{name} is .*it holds 1099511627776 bytes, more than the 268435456"):
        read_record(tmp_path / "certificate.json")


def test_cut_summary(tmp_path: Path) -> None:
    written(tmp_path)
    path = tmp_path / "certificate.json"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="is no record of certificates"):
        read_record(path)


def test_a_record_is_a_value(tmp_path: Path) -> None:
    record = written(tmp_path)
    assert isinstance(record, Record)
    with pytest.raises(AttributeError):
        record.rows[0].certified = True  # type: ignore[misc]
