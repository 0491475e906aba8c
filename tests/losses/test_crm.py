"""CRM against its formula in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from lipcert.losses import CRM, crm_penalty
from tests.losses.dense import Numbers, assert_gradient, dense, numbers_of, pixels, setting

WEIGHT, TEMPERATURE = 3.0, 5.0


def _radii(numbers: Numbers, labels: list[int]) -> list[list[float]]:
    return [
        [(z[y] - z[j]) / slopes[j] for j in range(len(z)) if j != y]
        for z, slopes, y in zip(numbers.logits, numbers.slopes, labels, strict=True)
    ]


def _loss(numbers: Numbers, labels: list[int], threshold: float) -> float:
    total = 0.0
    for logits, label, radii in zip(numbers.logits, labels, _radii(numbers, labels), strict=True):
        total += logsumexp(logits) - logits[label]
        if 0 < min(radii) < threshold:
            total += WEIGHT * logsumexp(-TEMPERATURE * np.array(radii)) / TEMPERATURE
    return total / len(labels)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("threshold", [0.05, 0.15, 100.0])
def test_value_and_gradient_follow_the_formula(classes: int, threshold: float) -> None:
    model, images = dense(classes), pixels()
    labels = model(images).argmax(dim=1)
    labels[3] = (labels[3] + 1) % classes  # one image classified wrongly
    objective = CRM(WEIGHT, TEMPERATURE, threshold)(model, images, labels, setting(0.4))
    numbers = numbers_of(model, images, labels)
    assert objective.loss.item() == pytest.approx(_loss(numbers, labels.tolist(), threshold), rel=1e-9)
    assert_gradient(model, images, labels, objective, lambda moved: _loss(moved, labels.tolist(), threshold))


def test_the_threshold_above_decides_for_some_images() -> None:
    for classes in (2, 4):
        model, images = dense(classes), pixels()
        labels = model(images).argmax(dim=1)
        smallest = [min(radii) for radii in _radii(numbers_of(model, images, labels), labels.tolist())]
        assert min(smallest) < 0.15 < max(smallest)


def test_minus_the_penalty_bounds_the_smallest_radius_from_below_and_meets_it() -> None:
    radii, labels = torch.tensor([[0.0, 0.4, 0.3, 0.9]], dtype=torch.float64), torch.tensor([0])
    soft = [-crm_penalty(radii, labels, temperature, 1.0).item() for temperature in (1.0, 5.0, 50.0, 500.0)]
    assert soft == sorted(soft)
    assert soft[-1] <= 0.3
    assert soft[-1] == pytest.approx(0.3, abs=1e-3)


def test_wrong_images_and_far_ones_are_left_alone() -> None:
    radii = torch.tensor([[0.0, -0.1, 0.5], [0.0, 2.0, 3.0], [0.0, 0.0, 0.5]], requires_grad=True)
    penalty = crm_penalty(radii, torch.zeros(3, dtype=torch.long), 5.0, 1.5)
    penalty.backward()
    assert penalty == 0
    assert radii.grad is not None
    assert radii.grad.count_nonzero() == 0


@pytest.mark.parametrize("option", ["weight", "temperature", "threshold"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, "3", True])
def test_bad_options_are_refused(option: str, value: object) -> None:
    options = {"weight": 1.0, "temperature": 1.0, "threshold": 1.0, option: value}
    with pytest.raises(ValueError, match=rf"method\.{option}"):
        CRM(**options)  # type: ignore[arg-type]
