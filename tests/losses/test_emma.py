"""EMMA against its formula in plain Python, and gradients that stop where they should."""

from __future__ import annotations

import math

import pytest
import torch

from lipcert.losses import EMMA, LA, annealed_cross_entropy, emma_logits
from tests.losses.dense import Numbers, assert_gradient, dense, numbers_of, pixels, setting

EPSILON = 0.1


def _shares(numbers: Numbers, labels: list[int], floor: float) -> list[list[float]]:
    """The part of epsilon at which each class draws level with the label."""
    rows = []
    for logits, slopes, label in zip(numbers.logits, numbers.slopes, labels, strict=True):
        radii = [(logits[label] - z) / k if k > 0 else 0.0 for z, k in zip(logits, slopes, strict=True)]
        rows.append([min(max(radius / EPSILON, floor), 1.0) for radius in radii])
    return rows


def _loss(numbers: Numbers, labels: list[int], shares: list[list[float]]) -> float:
    total = 0.0
    for logits, slopes, label, parts in zip(numbers.logits, numbers.slopes, labels, shares, strict=True):
        raised = [z if j == label else z + parts[j] * EPSILON * slopes[j] for j, z in enumerate(logits)]
        total += math.log(sum(math.exp(z) for z in raised)) - logits[label]
    return total / len(labels)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("floor", [0.0, 0.01, 0.5, 1.0])
def test_value_and_gradient_follow_the_formula(classes: int, floor: float) -> None:
    model, images = dense(classes), pixels()
    labels = torch.arange(8) % classes
    objective = EMMA(floor, box=False)(model, images, labels, setting(EPSILON))
    numbers = numbers_of(model, images, labels)
    shares = _shares(numbers, labels.tolist(), floor)
    assert objective.loss.item() == pytest.approx(_loss(numbers, labels.tolist(), shares), rel=1e-9)
    assert_gradient(model, images, labels, objective, lambda moved: _loss(moved, labels.tolist(), shares))


def test_every_case_of_the_clip_occurs_above() -> None:
    labels = torch.arange(8) % 4
    rows = _shares(numbers_of(dense(4), pixels(), labels), labels.tolist(), 0.01)
    shares = [share for row in rows for share in row]
    assert {0.01, 1.0} < set(shares)
    assert any(0.01 < share < 1 for share in shares)


def test_raised_classes_draw_level_or_use_all_of_epsilon() -> None:
    logits = torch.tensor([[3.0, 2.0, -4.0, 3.5]])
    increase = torch.tensor([[0.0, 2.0, 5.0, 1.0]])
    # Class 1 needs half of its increase, class 2 all of it, class 3 is ahead and keeps the floor.
    raised = emma_logits(logits, increase, torch.tensor([0]), 0.1)
    assert raised[0].tolist() == pytest.approx([0.0, 0.0, -2.0, 0.6])


@pytest.mark.parametrize("floor", [-0.1, 1.1, math.nan, "0.1", True])
def test_bad_floor_is_refused(floor: object) -> None:
    with pytest.raises(ValueError, match=r"method\.floor"):
        EMMA(floor)  # type: ignore[arg-type]


def test_bad_box_is_refused() -> None:
    with pytest.raises(ValueError, match=r"method\.box"):
        EMMA(box="yes")  # type: ignore[arg-type]


@pytest.mark.parametrize(("offset", "temperature", "exponent"), [(2.0, 0.75, 5.0), (0.0, 1.0, 0.0), (1.0, 2.0, 1.0)])
def test_annealing_is_its_formula(offset: float, temperature: float, exponent: float) -> None:
    rows, labels = [[3.0, 2.0, -4.0], [0.5, 0.25, 9.0]], [0, 1]
    expected = []
    for row, label in zip(rows, labels, strict=True):
        powers = [math.exp((z - offset * (j == label)) / temperature) for j, z in enumerate(row)]
        share = powers[label] / sum(powers)
        expected.append(-temperature * (1 - share) ** exponent * math.log(share))
    found = annealed_cross_entropy(torch.tensor(rows), torch.tensor(labels), offset, temperature, exponent)
    assert float(found) == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_annealed_images_far_from_the_boundary_cost_nothing_and_gradients_are_finite() -> None:
    logits = torch.tensor([[60.0, 0.0], [-1e4, 1e4], [1e4, -1e4]], requires_grad=True)
    annealed_cross_entropy(logits, torch.tensor([0, 0, 0]), 2.0, 0.75, 5.0).backward()
    assert logits.grad is not None
    assert logits.grad[[0, 2]].abs().max() == 0
    assert bool(logits.grad.isfinite().all())
    assert logits.grad[1, 0] < 0


@pytest.mark.parametrize(
    ("name", "value"), [("offset", -1), ("temperature", 0), ("exponent", 0.5), ("exponent", -1), ("offset", math.nan)]
)
def test_bad_options_of_annealing_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"method\.{name}"):
        LA(**{name: value})
