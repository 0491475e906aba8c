"""Margins of all pairs from one matrix: against a scalar bisection, numerical gradients, and in little memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lipcert.bounds import margins
from lipcert.bounds.margins import pair_support


def _draw(classes: int, images: int, size: int, scale: float = 0.2) -> tuple[Tensor, ...]:
    """Return rows, label rows, radius, lower and upper in float64."""
    generator = torch.Generator().manual_seed(classes + images)
    rows = torch.randn(classes, size, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (images,), generator=generator)
    box = scale * torch.rand(2, images, size, generator=generator, dtype=torch.float64) + 0.01
    radius = torch.linspace(0.1, 3 * scale * size**0.5, images, dtype=torch.float64)  # the ball binds, then the box
    return rows, rows[labels], radius, -box[0], box[1]


def _by_bisection(directions: np.ndarray, radius: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Return the maximum of each pair, (K, B): t found by halving an interval, then d·clip(t d, lower, upper)."""
    low, high = np.zeros(directions.shape[:2]), np.full(directions.shape[:2], 1e6)
    for _ in range(100):
        middle = (low + high) / 2
        lengths = np.linalg.norm(np.clip(middle[..., None] * directions, lower, upper), axis=2)
        low, high = np.where(lengths <= radius, middle, low), np.where(lengths <= radius, high, middle)
    return (directions * np.clip(low[..., None] * directions, lower, upper)).sum(axis=2)


def test_two_hundred_classes_equal_a_bisection_for_each_pair() -> None:
    rows, label_rows, radius, lower, upper = _draw(classes=200, images=6, size=24)
    directions = rows.numpy()[:, None] - label_rows.numpy()
    expected = _by_bisection(directions, radius.numpy(), lower.numpy(), upper.numpy())
    values = pair_support(rows, label_rows, radius, lower, upper)
    np.testing.assert_allclose(values.T, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("box", [True, False])
@pytest.mark.parametrize("chunk", [1, 2**20])
def test_gradients(box: bool, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows and label rows are told apart, so that no pair has a difference of zero, where a length has no slope."""
    monkeypatch.setattr(margins, "LARGEST_CHUNK", {"cpu": chunk})
    rows, label_rows, *rest = _draw(classes=3, images=2, size=3)
    arguments = [each.clone().requires_grad_() for each in (rows, label_rows + 0.1, *rest)]
    if box:
        assert torch.autograd.gradcheck(pair_support, arguments)
    else:
        assert torch.autograd.gradcheck(lambda *each: pair_support(*each, None, None), arguments[:3])


def test_gradients_of_a_label_with_itself_are_zero() -> None:
    rows, _, radius, lower, upper = (each.requires_grad_() for each in _draw(classes=5, images=4, size=6))
    labels = torch.tensor([0, 1, 2, 3])
    for box in ((lower, upper), (None, None)):
        own = pair_support(rows, rows[labels], radius, *box).gather(1, labels[:, None])
        assert (own == 0).all()
        (gradient,) = torch.autograd.grad(own.sum(), rows)
        assert (gradient == 0).all()


def test_a_radius_of_zero_and_nan() -> None:
    rows, label_rows, radius, lower, upper = _draw(classes=3, images=2, size=4)
    still = torch.zeros_like(radius, requires_grad=True)
    values = pair_support(rows, label_rows, still, lower, upper)
    assert values.abs().max() < 1e-9
    values.sum().backward()
    assert still.grad is not None
    assert still.grad.isfinite().all()
    assert pair_support(rows * torch.nan, label_rows, radius, lower, upper).isnan().all()
    assert pair_support(rows, label_rows, radius * torch.nan, lower, upper).isnan().all()


def test_nothing_of_the_size_of_all_directions_is_kept() -> None:
    rows, label_rows, *rest = (each.requires_grad_() for each in _draw(classes=200, images=8, size=32))
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each) or each, lambda each: each):
        pair_support(rows, label_rows, *rest)
    assert len(kept) > 3
    assert max(each.numel() for each in kept) <= rows.numel() < 8 * 200 * 32
