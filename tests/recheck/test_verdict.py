"""Rows: honest ones are confirmed, each kind of wrong one is contradicted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from lipcert.recheck import Rechecker, contradicted_norms
from lipcert.recheck.consistency import row_contradictions
from lipcert.recheck.layers import closed_maps
from lipcert.recheck.norms import Norms
from lipcert.recheck.program import compile_program
from lipcert.records import Row
from tests.networks import IMAGE, images, network

ROW = Row(0, 3, 3, 0.2, 0.5, True, 2.0, 0.3, 0.01, "tight")


def _wrong(**values: object) -> list[str]:
    return row_contradictions(replace(ROW, **values))  # type: ignore[arg-type]


def test_rules_of_a_row() -> None:
    assert _wrong() == []
    assert _wrong(certified=False, stage="", radius=0.1, margin=-1.0) == []
    for values, reason in (
        ({"margin": 0.0}, "margin"),
        ({"prediction": 4}, "predicted 4"),
        ({"radius": 0.1}, "certified with radius"),
        ({"certified": False, "stage": ""}, "not certified with radius"),
        ({"stage": ""}, "no stage"),
        ({"rounding": -1.0}, "rounding"),
        ({"lipschitz": -1.0}, "Lipschitz"),
        ({"certified": False, "stage": "", "radius": -1.0}, "radius -1"),
        ({"certified": False, "stage": "", "radius": 0.1, "prediction": 4}, "wrong prediction"),
    ):
        assert any(reason in found for found in _wrong(**values)), reason


def _rechecker(name: str = "plain", kind: str = "relu") -> Rechecker:
    return Rechecker(network(name, kind).float(), IMAGE, False)


def _row(rechecker: Rechecker, epsilon: float, decomposed: bool) -> Row:
    image = images()[0].float()
    label = int(rechecker.model(image[None]).argmax())
    found = rechecker.derive(image, epsilon, decomposed, impulses=0).margins(label)
    return Row(0, label, label, epsilon, found.executed, True, 1.0, epsilon, found.real - found.executed, "a")


@pytest.mark.parametrize(("name", "kind"), [("plain", "relu"), ("pooled", "clipped_relu"), ("residual", "maxmin")])
def test_margins_of_both_families_are_confirmed_and_higher_ones_are_not(name: str, kind: str) -> None:
    rechecker, image = _rechecker(name, kind), images()[0].float()
    for decomposed in (False, True):
        row = _row(rechecker, 0.003, decomposed)
        assert row.margin > 0
        assert rechecker.reason_against(row, image, row.label) is None
    best = max(margins.executed for margins in rechecker._margins(image, row.label, row.epsilon))
    raised = replace(row, margin=best + 0.2 * row.rounding + 1e-5)
    reason = rechecker.reason_against(raised, image, row.label)
    assert reason is not None
    assert "above the one derived" in reason


def test_wrong_rows_are_contradicted() -> None:
    rechecker, image = _rechecker(), images()[0].float()
    row = _row(rechecker, 0.003, False)
    other = (row.label + 1) % 5
    far = replace(row, certified=False, margin=-1.0, epsilon=9.0, stage="")
    for wrong, reason in (
        (replace(row, label=other), "the label of image 0"),
        (replace(row, prediction=other), "the network predicts"),
        (replace(row, margin=50.0), "at the image itself"),
        (replace(row, epsilon=2.0, radius=2.0), "certified, but the margin derived is -"),
        (replace(row, radius=2.0), "at the radius 2 nothing"),
        (replace(far, radius=2.0), "at the radius 2 nothing"),
        (replace(row, radius=float("inf")), "at the radius inf nothing"),
    ):
        found = rechecker.reason_against(wrong, image, row.label)
        assert found is not None
        assert reason in found
    assert rechecker.reason_against(replace(far, radius=0.003), image, row.label) is None


def test_an_attack_contradicts_whatever_the_bounds_say(monkeypatch: pytest.MonkeyPatch) -> None:
    rechecker, image = _rechecker(), images()[0].float()
    row = replace(_row(rechecker, 0.003, False), epsilon=5.0, radius=5.0)
    monkeypatch.setattr(Rechecker, "_against_margin", lambda *_: None)
    found = rechecker.reason_against(row, image, row.label)
    assert found is not None
    assert "is not classified as" in found


def test_norms_of_layers_are_found_by_the_activation_that_closes_them() -> None:
    program = compile_program(network("plain", "relu"), IMAGE)
    norms = Norms()
    maps = closed_maps(program)
    assert set(maps) == {"1", "3", "6", "7"}
    exact = float(torch.linalg.matrix_norm(network("plain", "relu")[7].weight.detach(), 2))
    assert contradicted_norms(program, {"7": exact * (1 + 1e-8), "elsewhere": 0.0}, norms) == []
    assert len(contradicted_norms(program, {"7": exact * (1 - 1e-6)}, norms)) == 1


def test_norms_that_several_sources_feed_are_left_out() -> None:
    assert set(closed_maps(compile_program(network("residual", "relu"), IMAGE))) == {"1", "2.branch.1", "7"}


def test_a_row_that_may_overflow_is_not_derived() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 3), nn.ReLU(), nn.Linear(3, 3)).eval().requires_grad_(False)
    model[1].weight.fill_(1e30)
    model[3].weight.fill_(1e30)
    row = replace(ROW, label=0, prediction=0)
    reason = Rechecker(model, IMAGE, False).reason_against(row, images()[0].float(), 0)
    assert reason is not None
    assert reason.startswith("not derived: ")
    assert "'3' may overflow" in reason
