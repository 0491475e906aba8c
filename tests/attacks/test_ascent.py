"""Projected ascent against a NumPy loop of its own; where it starts; random numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lipcert.attacks import projected_ascent, uniform_in_ball
from lipcert.attacks.ball import steepest


def _by_numpy(matrix: np.ndarray, image: np.ndarray, epsilon: float, steps: int, step_size: float) -> np.ndarray:
    """Ascend |Ax|² from the image: step along the gradient, onto the ball, into the box."""
    point = image.copy()
    for _ in range(steps):
        gradient = 2 * matrix.T @ (matrix @ point)
        point = point + step_size * gradient / np.linalg.norm(gradient)
        length = np.linalg.norm(point - image)
        if length > epsilon:
            point = image + (point - image) * epsilon / length
        point = np.minimum(np.maximum(point, 0), 1)
    return point


@pytest.mark.parametrize("epsilon", [0.05, 0.4, 2.0])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_same_steps_as_by_hand(epsilon: float, steps: int) -> None:
    generator = np.random.default_rng(3)
    matrix, images = generator.normal(size=(4, 9)), generator.uniform(size=(5, 9))
    tensor, weights = torch.from_numpy(images), torch.from_numpy(matrix)
    found = projected_ascent(
        lambda points: (points @ weights.T).square().sum(), tensor, tensor, epsilon, steps, 0.3 * epsilon
    )
    expected = np.stack([_by_numpy(matrix, image, epsilon, steps, 0.3 * epsilon) for image in images])
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)
    assert not found.requires_grad


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_gradients_of_any_size_give_steps_of_the_same_length(scale: float) -> None:
    gradient = scale * torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(steepest(gradient).flatten(1).norm(dim=1), torch.ones(6))
    torch.testing.assert_close(
        steepest(gradient), (gradient.double() / gradient.double().flatten(1).norm(dim=1).view(-1, 1, 1)).float()
    )


def test_no_gradient_no_step() -> None:
    images = torch.full((2, 5), 0.4)
    assert torch.equal(projected_ascent(lambda points: (0 * points).sum(), images, images, 0.5, 3, 0.2), images)


def test_a_start_outside_is_moved_inside() -> None:
    images = torch.full((2, 5), 0.4)
    found = projected_ascent(lambda points: points.sum(), images, images + 5, 0.5, 1, 1e-9)
    assert ((found - images).double().norm(dim=1) <= 0.5).all()


def test_starts_are_uniform_in_the_ball() -> None:
    """In n dimensions a share r^n of the ball lies within r of its center, and directions are symmetric."""
    torch.manual_seed(0)
    images = torch.full((20000, 1, 2, 2), 0.5, dtype=torch.float64)
    change = (uniform_in_ball(images, 0.3) - images).flatten(1)
    lengths = change.norm(dim=1)
    assert lengths.max() <= 0.3 * (1 + 1e-9)
    for share in (0.5, 0.8, 0.95):
        assert (lengths < 0.3 * share).double().mean().item() == pytest.approx(share**4, abs=0.02)
    assert change.mean(dim=0).abs().max() < 0.01
    variances = change.square().mean(dim=0)  # r² n/(n + 2) over n coordinates
    torch.testing.assert_close(variances, torch.full((4,), 0.09 / 6).double(), rtol=0.05, atol=0)


def test_starts_follow_the_global_random_state() -> None:
    def draw(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return uniform_in_ball(torch.zeros(3, 2, 2), 1.0)

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
