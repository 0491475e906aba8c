"""`python -m lipcert.check` on honest, damaged and falsified records."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from lipcert.commands.check import main
from lipcert.records import Contents, FailureProbability, Model, NormBracket, Row, StageTally
from lipcert.records.fingerprint import model_sha256
from tests.recheck.records import BUILDER, EPSILONS, changed, honest_rows, make, nearest_mean, write
from tests.running import forked

ALL = ("--rows", ",".join(str(number) for number in range(16)))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return nearest_mean()


@pytest.fixture(scope="module")
def rows(model: nn.Module) -> list[Row]:
    return honest_rows(model)


def _refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said


def _first(rows: list[Row], certified: bool) -> int:
    """Return the first row at the larger epsilon that is certified or correct but not certified."""
    return next(
        number
        for number, row in enumerate(rows)
        if row.certified == certified and row.prediction == row.label and row.epsilon == EPSILONS[1]
    )


def test_an_honest_record_is_confirmed(
    tmp_path: Path, model: nn.Module, rows: list[Row], capsys: pytest.CaptureFixture[str]
) -> None:
    assert 0 < sum(row.certified for row in rows) < len(rows)
    main(write(tmp_path, model, rows).words(*ALL))
    said = capsys.readouterr().out
    assert said.count(": confirmed") == 16
    assert "confirmed: 16 of 16 rows" in said


def test_what_conversion_of_points_costs_a_steep_network_is_no_contradiction(
    tmp_path: Path, model: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    steep = deepcopy(model)
    with torch.no_grad():
        steep[1].bias += 1  # no neuron bends: the margin is what follows from the Lipschitz constant
        steep[3].bias -= steep[3].weight.sum(dim=1)
        for each in steep[3].parameters():
            each *= 300
    main(write(tmp_path, steep, honest_rows(steep)).words("--count", "0"))
    assert "no contradictions" in capsys.readouterr().out


def test_a_run_stands_for_its_only_record_and_network(
    tmp_path: Path, model: nn.Module, rows: list[Row], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "certificates" / "last"
    folder.mkdir(parents=True)
    _, flag, network, *rest = write(folder, model, rows).words("--rows", "0")
    assert flag == "--checkpoint"
    (tmp_path / "checkpoints").mkdir()
    assert "Type --checkpoint PATH" in _refused([str(tmp_path), *rest], capsys)
    Path(network).rename(tmp_path / "checkpoints" / "last.ckpt")
    main([str(tmp_path), *rest])
    assert "confirmed: 1 of 1 rows" in capsys.readouterr().out
    folder.rename(tmp_path / "certificates" / "best")
    assert "Type --checkpoint PATH" in _refused([str(folder.with_name("best")), *rest], capsys)
    assert "holds no record; make one by python -m lipcert.certify" in _refused([str(tmp_path / "checkpoints")], capsys)


def test_clipped_pixels_are_those_of_the_record(
    tmp_path: Path, model: nn.Module, rows: list[Row], capsys: pytest.CaptureFixture[str]
) -> None:
    clipped = honest_rows(model, clip_input=True)
    main(write(tmp_path, model, clipped, clip_input=True).words(*ALL))
    assert "16 of 16" in capsys.readouterr().out
    assert "above the one derived" in _refused(write(tmp_path, model, clipped).words(*ALL), capsys)


def test_rows_are_drawn(tmp_path: Path, model: nn.Module, rows: list[Row], capsys: pytest.CaptureFixture[str]) -> None:
    written = write(tmp_path, model, rows)
    said = []
    for words in (("--count", "3", "--seed", "5"), ("--count", "3", "--seed", "5"), ("--count", "3", "--seed", "6")):
        main(written.words(*words))
        said.append([line for line in capsys.readouterr().out.splitlines() if line.startswith("row ")])
    assert len(said[0]) == 3
    assert said[0] == said[1] != said[2]
    assert "from 0 to 15" in _refused(written.words("--rows", "16"), capsys)
    assert "--count" in _refused(written.words("--count", "-1"), capsys)


@pytest.mark.parametrize(
    ("certified", "values", "reason"),
    [
        (True, lambda row: {"margin": row.margin + 0.01}, "above the one derived"),
        (True, lambda row: {"radius": 5.0}, "at the radius 5 nothing"),
        (True, lambda row: {"prediction": 9 - row.label, "label": 9 - row.label}, "label "),
        (True, lambda row: {"margin": -0.1}, "certified with margin -0.1"),
        (
            False,
            lambda row: {"certified": True, "stage": "tight", "radius": row.epsilon, "margin": 1e-3},
            "certified, but the margin derived is -",
        ),
        (False, lambda row: {"radius": row.epsilon * 0.999}, "nothing could be derived"),
    ],
)
def test_a_falsified_row_is_caught_though_all_digests_and_totals_fit(
    tmp_path: Path,
    model: nn.Module,
    rows: list[Row],
    capsys: pytest.CaptureFixture[str],
    certified: bool,
    values: Callable[[Row], dict[str, object]],
    reason: str,
) -> None:
    number = _first(rows, certified)
    written = write(tmp_path, model, changed(rows, number, **values(rows[number])))
    said = _refused(written.words("--rows", str(number)), capsys)
    assert f"row {number} " in said
    assert reason in said


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda contents: replace(contents, failure_probability=FailureProbability(1e-9, 2, 1e-9)),
            "failure_probability.total 1e-09",
        ),
        (
            lambda contents: replace(contents, norms={"2": NormBracket(0.9, 0.99)}),
            "norms.2.upper 0.99 is below the norm",
        ),
        (lambda contents: replace(contents, norms={"2": NormBracket(3.0, 2.0)}), "norms.2.lower 3 is not between"),
        (
            lambda contents: replace(contents, arithmetic=replace(contents.arithmetic, unit_roundoff=2.0**-53)),
            "arithmetic.unit_roundoff",
        ),
        (
            lambda contents: replace(contents, arithmetic=replace(contents.arithmetic, executed="float64")),
            "in float64",
        ),
        (lambda contents: replace(contents, model=replace(contents.model, sha256="0" * 64)), "another network"),
        (lambda contents: replace(contents, data=replace(contents.data, sha256="0" * 64)), "other data"),
        (lambda contents: replace(contents, data=replace(contents.data, split="train")), "other data"),
        (lambda contents: replace(contents, data=replace(contents.data, split="none")), "train or test"),
        (
            lambda contents: replace(contents, stages=(replace(contents.stages[0], certified=1),)),
            "stages.tight.certified is 1",
        ),
    ],
)
def test_a_falsified_summary_is_caught(
    tmp_path: Path,
    model: nn.Module,
    rows: list[Row],
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Contents], Contents],
    reason: str,
) -> None:
    assert reason in _refused(write(tmp_path, model, rows, change).words("--count", "0"), capsys)


def test_edited_and_truncated_files_are_refused(
    tmp_path: Path, model: nn.Module, rows: list[Row], capsys: pytest.CaptureFixture[str]
) -> None:
    written = write(tmp_path, model, rows)
    table = tmp_path / "certificates.csv"
    whole, summary = table.read_bytes(), written.certificate.read_bytes()
    for content in (whole[:-40], whole.replace(b"tight", b"other", 1), b""):
        table.write_bytes(content)
        assert "certificates.csv was changed" in _refused(written.words(), capsys)
    table.write_bytes(whole)
    for content in (summary[: len(summary) // 2], b"", b"[]"):
        written.certificate.write_bytes(content)
        assert "no record of certificates" in _refused(written.words(), capsys)
    edited = json.loads(summary)
    edited["totals"][0]["certified_accuracy"] = 1.0
    edited["totals"][0]["certified_by_stage"]["tight"] = 8
    edited["totals"][1]["clean_accuracy"] += 1e-3
    written.certificate.write_text(json.dumps(edited))
    said = _refused(written.words("--count", "0"), capsys)
    assert "totals.clean_accuracy at epsilon 0.6" in said
    table.unlink()
    written.certificate.write_bytes(summary)
    assert "missing" in _refused(written.words(), capsys)


def test_another_network_is_refused(
    tmp_path: Path, model: nn.Module, rows: list[Row], capsys: pytest.CaptureFixture[str]
) -> None:
    written = write(tmp_path, model, rows)
    tensors = model.state_dict()
    tensors["3.bias"] = tensors["3.bias"] + 1e-6
    torch.save(tensors, written.checkpoint)
    assert "another network" in _refused(written.words(), capsys)
    written.checkpoint.write_bytes(b"no checkpoint")
    assert "damaged" in _refused(written.words(), capsys)
    written.checkpoint.unlink()
    assert "no such file" in _refused(written.words(), capsys)
    assert "--builder tests" in _refused(written.words()[:3], capsys)


def pooled() -> nn.Module:
    """Return a network in front of which pixels are averaged with themselves, over twos."""
    return nn.Sequential(nn.AvgPool2d(1, divisor_override=2), *make())


def test_an_older_fingerprint_that_hides_something_is_refused_with_the_reason(
    tmp_path: Path, rows: list[Row], capsys: pytest.CaptureFixture[str]
) -> None:
    network = pooled().eval()
    older = model_sha256(network, complete=False)
    assert older == model_sha256(nn.Sequential(nn.AvgPool2d(1), *network[1:]))  # type: ignore[index]
    written = write(
        tmp_path, network, rows, lambda contents: replace(contents, model=replace(contents.model, sha256=older))
    )
    said = _refused(written.words("--builder", "tests.commands.test_check:pooled"), capsys)
    assert '[["0", {"divisor_override": 2}]]' in said
    assert "Certify it anew" in said


def test_records_of_parametrized_networks_from_before_they_were_folded(
    tmp_path: Path, model: nn.Module, rows: list[Row], capsys: pytest.CaptureFixture[str]
) -> None:
    about = Model("0" * 64, "float32", {"parametrization": "aol", "builder": BUILDER})
    written = write(tmp_path, model, rows, lambda contents: replace(contents, model=about))
    assert "before these were folded are refused: certify it anew" in _refused(written.words(), capsys)


def test_the_module_runs_as_a_command(tmp_path: Path) -> None:
    done = forked("-m", "lipcert.check", str(tmp_path / "none.json"), "--checkpoint", "none.pt", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: {tmp_path / 'none.json'}: no such record; give the path of a certificate.json.\n"


def _with_linear_stage(contents: Contents) -> Contents:
    """Return contents in which backward linear bounds took part."""
    return replace(contents, stages=(*contents.stages, StageTally("crown-alpha", "crown-alpha", 30, 0, 0, 0.0)))


def test_rows_beyond_reach_are_not_re_derived_where_linear_bounds_took_part(
    tmp_path: Path, model: nn.Module, rows: list[Row], capsys: pytest.CaptureFixture[str]
) -> None:
    number, raised = _first(rows, certified=True), rows
    for copy in (number, number - len(rows) // 2):  # of the same image at the smaller epsilon
        raised = changed(raised, copy, margin=rows[number].margin + 1e-3)
    said = _refused(write(tmp_path, model, raised, _with_linear_stage).words(*ALL), capsys)
    assert "1 of 16 rows are not re-derived" in said
    assert "the other 15 are confirmed" in said
    main(write(tmp_path, model, rows, _with_linear_stage).words(*ALL))
    assert "confirmed: 16 of 16 rows" in capsys.readouterr().out


def test_linear_bounds_are_no_excuse_for_what_an_attack_refutes(
    tmp_path: Path, model: nn.Module, rows: list[Row], capsys: pytest.CaptureFixture[str]
) -> None:
    number = _first(rows, certified=False)
    false = changed(rows, number, margin=1e-3, certified=True, radius=EPSILONS[1], stage="tight")
    said = _refused(write(tmp_path, model, false, _with_linear_stage).words(*ALL), capsys)
    assert "is contradicted" in said
