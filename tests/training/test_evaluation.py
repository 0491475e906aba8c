"""Evaluations: networks of enormous Lipschitz constants, AutoAttack on request."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import nn

from lipcert.bounds import Bound
from lipcert.data import load_images
from lipcert.nn import build
from lipcert.training.evaluation import EvaluationSettings, evaluate
from tests.oracles import scale_weights

KEYS = ("clean_accuracy", "pgd_accuracy", "certified_accuracy", "global_lipschitz", "local_lipschitz_mean")


def _evaluate(model: nn.Module, pgd_steps: int = 3, autoattack_images: int = 0) -> dict[str, Any]:
    settings = EvaluationSettings(["global", "local", "tight"], 20, pgd_steps, 100, False, 20, autoattack_images)
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


def test_no_more_images_meet_auto_attack_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    attacked = []

    def all_withstand(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, epsilon: float) -> torch.Tensor:
        attacked.append((len(images), len(labels), epsilon))
        return torch.ones(len(labels), dtype=torch.bool)

    monkeypatch.setattr("lipcert.training.evaluation.auto_attack_robust", all_withstand)
    results = _evaluate(build("small", (1, 8, 8), 10), autoattack_images=1000)
    assert attacked == [(20, 20, 0.3)]
    assert (results["autoattack_images"], results["autoattack_accuracy"]) == (20, 1.0)
