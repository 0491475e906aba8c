"""Rows: honest ones are confirmed, each kind of wrong one is contradicted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lipcert.recheck import Rechecker
from lipcert.recheck.consistency import row_contradictions
from lipcert.recheck.margins import margins
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
        ({"prediction": 4}, "prediction is 4"),
        ({"radius": 0.1}, "certified with radius"),
        ({"certified": False, "stage": ""}, "not certified with radius"),
        ({"certified": False, "stage": "", "radius": 0.1}, "not certified with margin"),
        ({"margin": float("inf")}, "margin inf"),
        ({"rounding": float("inf")}, "margin 0.5 with rounding inf"),
        ({"radius": float("inf")}, "certified with radius inf"),
        ({"stage": ""}, "by the stage ''"),
        ({"rounding": -1.0}, "rounding"),
        ({"lipschitz": -1.0}, "lipschitz"),
        ({"certified": False, "stage": "", "radius": -1.0}, "radius -1"),
        ({"certified": False, "stage": "", "radius": 0.1, "prediction": 4}, "wrong prediction"),
    ):
        assert any(reason in found for found in _wrong(**values)), reason


def _rechecker(name: str = "plain", kind: str = "relu") -> Rechecker:
    return Rechecker(network(name, kind).float(), IMAGE, False)


def _row(rechecker: Rechecker, epsilon: float, decomposed: bool) -> Row:
    image = images()[0].float()
    label = int(rechecker.model(image[None]).argmax())
    found = margins(rechecker.derive(image, epsilon, decomposed, impulses=0), label)
    return Row(0, label, label, epsilon, found.executed, True, 1e9, epsilon, found.real - found.executed, "a")


@pytest.mark.parametrize(("name", "kind"), [("plain", "relu"), ("pooled", "clipped_relu"), ("residual", "maxmin")])
def test_margins_of_both_families_are_confirmed_and_higher_ones_are_not(name: str, kind: str) -> None:
    rechecker, image = _rechecker(name, kind), images()[0].float()
    for decomposed in (False, True):
        row = _row(rechecker, 0.003, decomposed)
        assert row.margin > 0
        assert rechecker.reason_against(row, image) is None
    best = max(best.executed for best, _ in rechecker._derived(image, row.label, row.epsilon))
    raised = replace(row, margin=best + 0.6 * row.rounding + 1e-5, rounding=0.0)
    reason = rechecker.reason_against(raised, image)
    assert reason is not None
    assert "above the one derived" in reason


def test_wrong_rows_are_contradicted() -> None:
    rechecker, image = _rechecker(), images()[0].float()
    row = _row(rechecker, 0.003, False)
    far = replace(row, certified=False, margin=-1e3, epsilon=9.0, stage="", rounding=1.0)
    for wrong, reason in (
        (replace(row, epsilon=2.0, radius=2.0), "certified, but the margin derived is -"),
        (replace(row, rounding=0.01), "margin + rounding "),
        (replace(row, rounding=0.05 * row.rounding), "rounding "),
        (replace(row, lipschitz=1e-3), "lipschitz 0.001 is below the one derived"),
        (replace(row, radius=2.0), "at the radius 2 nothing"),
        (replace(far, radius=2.0), "at the radius 2 nothing"),
        (replace(far, margin=-1e-3), "margin -0.001 is above the one derived, -"),
        (replace(row, radius=float("inf")), "at the radius inf nothing"),
    ):
        found = rechecker.reason_against(wrong, image)
        assert found is not None
        assert reason in found
    assert rechecker.reason_against(replace(far, radius=0.003), image) is None
    assert rechecker.reason_against(replace(far, margin=-float("inf"), rounding=float("inf")), image) is None


def test_ties_within_rounding_may_be_predicted_either_way() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 3)).eval().requires_grad_(False)
    model[1].weight[1] = model[1].weight[0]
    model[1].bias.copy_(torch.tensor([9.0, 9.0, -9.0]))
    rechecker = Rechecker(model, IMAGE, False)
    assert [rechecker.may_predict(images()[0].float(), label) for label in range(3)] == [True, True, False]


def test_an_attack_contradicts_whatever_the_bounds_say() -> None:
    rechecker, image = _rechecker(), images()[0].float()
    row = _row(rechecker, 0.003, False)
    assert rechecker.refutation(row, image) is None
    found = rechecker.refutation(replace(row, epsilon=5.0, radius=5.0), image)
    assert found is not None
    assert "is not classified as" in found


def test_a_row_that_may_overflow_is_not_derived() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 3), nn.ReLU(), nn.Linear(3, 3)).eval().requires_grad_(False)
    model[1].weight.fill_(1e30)
    model[3].weight.fill_(1e30)
    row = replace(ROW, label=0, prediction=0)
    reason = Rechecker(model, IMAGE, False).reason_against(row, images()[0].float())
    assert reason is not None
    assert reason.startswith("not derived: ")
    assert "'3' may overflow" in reason


def test_what_is_executed_with_more_rounding_confirms_nothing() -> None:
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match=r"torch\.autocast is on"):
        _rechecker()
    with FlopCounterMode(display=False), pytest.raises(ValueError, match="FlopCounterMode is active"):
        _rechecker()
