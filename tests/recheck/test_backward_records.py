"""Records with a stage of backward bounds: honest ones are confirmed, forged rows of that stage are not."""

from __future__ import annotations

import pytest

from tests.recheck.genuine import EPSILONS, Content, Genuine, Rows, certified, renew

LARGE = EPSILONS[1]
STAGE = "crown-alpha"


@pytest.fixture(autouse=True)
def fixture_few_ascents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here needs more, and rows that cannot be confirmed would take all."""
    monkeypatch.setattr("lipcert.recheck.margins.BACKWARD_EFFORTS", ((None, 0), (None, 20), ((0, 2**20), 0)))


@pytest.fixture(scope="module", name="record")
def fixture_record(tmp_path_factory: pytest.TempPathFactory) -> Genuine:
    """A record whose images are certified by products of norms, by backward bounds, or not at all."""
    return certified(tmp_path_factory.mktemp("backward"), f"stages=[global,tight,{STAGE}]")


def _numbers(rows: Rows, stage: str, epsilon: float = LARGE) -> list[int]:
    """Return the numbers of rows of right predictions that a stage certified, at one radius."""
    found = [number for number, row in enumerate(rows) if row["stage"] == stage and row["epsilon"] == epsilon]
    return [number for number in found if rows[number]["label"] == rows[number]["prediction"]]


def _hopeless(rows: Rows) -> int:
    """Return the number of the row of a right prediction of which least is proved."""
    return min(_numbers(rows, ""), key=lambda number: float(rows[number]["radius"]))


def _said(record: Genuine, content: Content, rows: Rows, *numbers: int) -> str:
    """Return why rows are refused."""
    renew(content, rows)
    with pytest.raises(ValueError, match=r"certificate\.json|rows are not re-derived") as refused:
        record.check(content, rows, "--rows", ",".join(map(str, numbers)))
    return str(refused.value)


def test_rows_of_every_kind_are_confirmed(record: Genuine) -> None:
    content, rows = record.read()
    proved, left = _numbers(rows, STAGE), _numbers(rows, "")
    assert len(proved) > 2
    assert left
    record.check(content, rows, "--rows", ",".join(map(str, (*proved, *left, *_numbers(rows, "global")[:1]))))


def test_without_backward_bounds_they_are_not_re_derived(record: Genuine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lipcert.recheck.margins.BACKWARD_EFFORTS", ())
    content, rows = record.read()
    proved = _numbers(rows, STAGE)
    assert f"of {len(proved)} rows are not re-derived" in _said(record, content, rows, *proved)


def test_an_image_that_nothing_certifies_is_not_confirmed_for_the_stage_it_names(record: Genuine) -> None:
    content, rows = record.read()
    number = _hopeless(rows)
    rows[number] |= {"certified": True, "stage": STAGE, "margin": 1e-3, "radius": LARGE}
    rows[number - len(rows) // 2] |= rows[number] | {"epsilon": EPSILONS[0]}
    said = _said(record, content, rows, number)
    assert "1 of 1 rows are not re-derived" in said or "is not classified as" in said


def test_its_margins_may_not_be_above_what_an_attack_finds(record: Genuine) -> None:
    content, rows = record.read()
    number = _numbers(rows, STAGE)[0]
    for copy in (number, number - len(rows) // 2):
        rows[copy]["margin"] += 5.0
    assert "is above" in _said(record, content, rows, number)


def test_radii_that_nothing_proves_are_not_confirmed(record: Genuine) -> None:
    content, rows = record.read()
    number = _hopeless(rows)
    for copy in (number, number - len(rows) // 2):
        rows[copy]["radius"] = 0.99 * LARGE
    said = _said(record, content, rows, number)
    assert "1 of 1 rows are not re-derived" in said or "within which an image is not classified" in said
