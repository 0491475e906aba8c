"""Evaluations: networks of enormous Lipschitz constants, AutoAttack on request."""

from __future__ import annotations

import json
import math
import os
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from lipcert.bounds import Bound
from lipcert.certificates import Float64Model, certify
from lipcert.data import Split, load_images
from lipcert.nn import build
from lipcert.system.execution import present_execution, uncovered
from lipcert.system.switches import Execution
from lipcert.training.checks import check_evaluation
from lipcert.training.evaluation import EvaluationSettings, evaluate
from tests.oracles import scale_weights

KEYS = ("clean_accuracy", "pgd_accuracy", "certified_accuracy", "global_lipschitz", "local_lipschitz_mean")


def _evaluate(model: nn.Module, pgd_steps: int = 3, autoattack_images: int = 0) -> dict[str, Any]:
    settings = EvaluationSettings(
        ["global", "local", "tight"], 20, pgd_steps, 100, False, 20, autoattack_images=autoattack_images
    )
    return evaluate(model, load_images("digits").test.first(20), 0.3, Bound.LOCAL, settings)


@pytest.mark.parametrize("factor", [1.0, 1e3, 1e6])
@pytest.mark.parametrize("activation", ["relu", "clipped_relu", "maxmin"])
def test_enormous_constants_certify_nothing_and_stay_finite(factor: float, activation: str) -> None:
    torch.manual_seed(0)
    model = scale_weights(build("small", (1, 8, 8), 10, activation), factor)
    results = _evaluate(model)
    assert all(math.isfinite(results[key]) for key in KEYS)
    assert results["global_lipschitz"] >= results["local_lipschitz_mean"] > 0
    if factor > 1:
        assert results["certified_accuracy"] == 0
        assert results["certified_accuracy_by_bound"] == {"local": 0, "global": 0, "tight": 0}
    json.dumps(results, allow_nan=False)


def test_auto_attack_on_request() -> None:
    torch.manual_seed(0)
    model = build("small", (1, 8, 8), 10)
    off = _evaluate(model, pgd_steps=0)
    assert (off["autoattack_accuracy"], off["autoattack_images"], off["pgd_accuracy"]) == (None, None, None)
    results = _evaluate(model, autoattack_images=6)
    assert results["autoattack_images"] == 6
    assert 0 <= results["autoattack_accuracy"] <= 1


def test_auto_attack_is_spared_what_is_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    """It meets neither wrong nor certified images, and its word counts for the others among the first."""
    torch.manual_seed(0)
    model = scale_weights(build("small", (1, 8, 8), 10), 0.8)
    split = load_images("digits").test.first(200)
    logits = model(split.images)
    split = Split(split.images, torch.where(torch.arange(200) % 4 == 0, logits.argmin(dim=1), logits.argmax(dim=1)))
    certified = certify(model, split.images, split.labels, 0.15, "tight").certified
    attacked: list[torch.Tensor] = []

    def none_withstands(model: nn.Module, images: torch.Tensor, *_: Any, seed: int) -> torch.Tensor:
        attacked.append(images)
        return torch.zeros(len(images), dtype=torch.bool)

    monkeypatch.setattr("lipcert.training.evaluation.auto_attack_robust", none_withstands)
    settings = EvaluationSettings(["global", "tight"], 60, 0, 50, False, 20, autoattack_images=130)
    results = evaluate(model, split, 0.15, Bound.TIGHT, settings)
    first = torch.arange(200) < 130
    correct = torch.arange(200) % 4 != 0
    assert 10 < (first & certified).sum() < (first & correct).sum()
    assert torch.equal(torch.cat(attacked), split.images[first & correct & ~certified])
    assert results["autoattack_images"] == 130
    assert results["autoattack_accuracy"] == (first & certified).sum().item() / 130


def test_less_memory_means_fewer_images_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = build("small", (1, 8, 8), 10).eval()
    expected = _evaluate(model, pgd_steps=0)
    analyze, sizes = Float64Model.analyze, []

    def with_memory_for_three(network: Float64Model, images: torch.Tensor, *given: Any, **named: Any) -> Any:
        sizes.append(len(images))
        if len(images) > 3:
            raise torch.OutOfMemoryError("for three")
        return analyze(network, images, *given, **named)

    monkeypatch.setattr(Float64Model, "analyze", with_memory_for_three)
    found = _evaluate(model, pgd_steps=0)
    assert max(sizes) > 3
    assert found["local_lipschitz_mean"] == pytest.approx(expected["local_lipschitz_mean"], rel=1e-6)
    same = ("num_test", "clean_accuracy", "certified_accuracy_by_bound", "lipschitz_images")
    assert {key: found[key] for key in same} == {key: expected[key] for key in same}
    monkeypatch.setattr(Float64Model, "analyze", mock.Mock(side_effect=torch.OutOfMemoryError("for none")))
    with pytest.raises(torch.OutOfMemoryError, match="for none"):
        _evaluate(model, pgd_steps=0)


class _Mode(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return function(*args, **(kwargs or {}))


def test_what_is_attacked_is_executed_as_bounds_cover_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under switches that were set for training, too; they are as before when it is over."""
    torch.manual_seed(0)
    model, device = build("small", (1, 8, 8), 10), torch.device("cpu")
    found: list[Execution] = []

    def attacked(model: nn.Module, images: torch.Tensor, *_: Any) -> torch.Tensor:
        found.append(present_execution(device))
        return torch.ones(len(images), dtype=torch.bool)

    monkeypatch.setattr("lipcert.training.evaluation.pgd_robust", attacked)
    before = present_execution(device)
    with torch.backends.flags(fp32_precision="bf16"):
        fast = present_execution(device)
        _evaluate(model)
        assert present_execution(device) == fast
    assert present_execution(device) == before
    assert len(list(uncovered(fast))) == 2
    assert [list(uncovered(each)) for each in found] == [[]]


@pytest.mark.parametrize(
    ("context", "words"),
    [
        (lambda: torch.autocast("cpu", torch.bfloat16), "torch.autocast is on"),
        (_Mode, "_Mode is active"),
        (lambda: mock.patch.dict(os.environ, ONEDNN_DEFAULT_FPMATH_MODE="BF16"), "FPMATH_MODE=BF16"),
    ],
)
def test_what_no_switch_undoes_is_refused(context: Any, words: str) -> None:
    """Before a run starts, too."""
    model = build("small", (1, 8, 8), 10)
    for refused in (check_evaluation, lambda: _evaluate(model)):
        with context(), pytest.raises(ValueError, match=words):
            refused()
    check_evaluation()
