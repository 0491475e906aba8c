"""CLL against its formula in numpy, with scipy's logistic distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import logistic

from lipcert.losses import CLL, calibrated_width
from tests.losses.dense import Array, Numbers, assert_gradient, dense, numbers_of, pixels, setting

EPSILON, SLACK, DECAY = 0.4, 0.3, 1e-2


@pytest.mark.parametrize("slack", [1e-6, 0.025, 0.3, 0.9])
def test_width_is_that_of_a_logistic_distribution(slack: float) -> None:
    width = calibrated_width(0.3, slack)
    assert 2 * logistic.sf(0.3, scale=width) == pytest.approx(slack, rel=1e-9)
    quantiles = logistic.ppf(1 - slack / 2) - logistic.ppf(slack / 2)
    assert width == pytest.approx(2 * 0.3 / quantiles, rel=1e-9)


def _loss(numbers: Numbers, labels: list[int], held: Array | None) -> float:
    """As in the paper: half of the offset off the label's logit, half on the others'; `held`: constant slopes."""
    width = 2 * EPSILON / (logistic.ppf(1 - SLACK / 2) - logistic.ppf(SLACK / 2))
    slopes = numbers.slopes if held is None else held
    total = 0.0
    for row, (logits, label) in enumerate(zip(numbers.logits, labels, strict=True)):
        calibrated = []
        for j, logit in enumerate(logits):
            difference = 0.0 if j == label else (logit - logits[label]) / slopes[row, j]
            calibrated.append((difference + (-EPSILON if j == label else EPSILON)) / width)
        total += logsumexp(calibrated) - calibrated[label] + DECAY * numbers.slopes[row].max() ** 2
    return total / len(labels)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("detach", [True, False])
def test_value_and_gradient_follow_the_formula(classes: int, detach: bool) -> None:
    model, images = dense(classes), pixels()
    labels = torch.arange(8) % classes
    objective = CLL(EPSILON, SLACK, DECAY, detach=detach)(model, images, labels, setting(EPSILON))
    numbers = numbers_of(model, images, labels)
    held = numbers.slopes.copy() if detach else None
    assert objective.loss.item() == pytest.approx(_loss(numbers, labels.tolist(), held), rel=1e-9)
    assert_gradient(model, images, labels, objective, lambda moved: _loss(moved, labels.tolist(), held))


def test_a_pair_at_the_offset_is_undecided() -> None:
    """Of two classes, where the radius is `offset` epsilons, the loss is log 2."""
    model, images, labels = dense(2), pixels(1), torch.tensor([0])
    numbers = numbers_of(model, images, labels)
    radius = float((numbers.logits[0, 0] - numbers.logits[0, 1]) / numbers.slopes[0, 1])
    labels = torch.tensor([0 if radius > 0 else 1])
    objective = CLL(EPSILON, SLACK, 0, offset=abs(radius) / EPSILON)(model, images, labels, setting(EPSILON))
    assert objective.loss.item() == pytest.approx(math.log(2), rel=1e-9)


def test_less_slack_costs_uncertified_images_more() -> None:
    model, images = dense(4), pixels()
    labels = torch.arange(8) % 4
    losses = [CLL(EPSILON, slack, 0)(model, images, labels, setting(EPSILON)).loss.item() for slack in (0.5, 0.1, 1e-3)]
    assert losses == sorted(losses)
    assert np.isfinite(losses).all()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("epsilon", each) for each in (0.0, -1.0, math.nan, "0.5")),
        *(("slack", each) for each in (0.0, 1.0, math.nan)),
        *(("decay", each) for each in (-1.0, math.nan, math.inf)),
        *(("offset", each) for each in (0.0, -1.0)),
        *(("detach", each) for each in (1, "yes")),
        ("box", None),
    ],
)
def test_bad_options_are_refused(option: str, value: object) -> None:
    options = {"epsilon": 0.5, "slack": 0.3, "decay": 1e-4, option: value}
    with pytest.raises(ValueError, match=rf"method\.{option}"):
        CLL(**options)  # type: ignore[arg-type]
