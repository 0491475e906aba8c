"""What attacks return lies inside, by NumPy's arithmetic in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lipcert.attacks import PIXELS, Box, pgd, random_search, unbounded
from lipcert.attacks.ball import check_pixels, contained, inside, project
from tests.pairwise import pairwise


def _distances(points: Tensor, images: Tensor) -> np.ndarray:
    change = points.numpy().astype(np.float64) - images.numpy().astype(np.float64)
    return np.sqrt((change.reshape(len(change), -1) ** 2).sum(axis=1))


def _images(count: int, pixels: int) -> Tensor:
    return torch.rand(count, 1, pixels, pixels, generator=torch.Generator().manual_seed(0))


@pairwise(pixels=[3, 28, 96], epsilon=[1e-2, 0.5, 30.0], free=[False, True])
def test_points_anywhere_are_moved_inside(pixels: int, epsilon: float, free: bool) -> None:
    box = unbounded(epsilon) if free else PIXELS
    images = _images(50, pixels)
    points = images + 3 * epsilon * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    moved = contained(points, images, epsilon, box)
    assert moved.dtype == torch.float32
    assert (_distances(moved, images) <= epsilon).all()
    lower, upper = np.float32(box[0]), np.float32(box[1])
    assert (moved.numpy() >= lower).all()
    assert (moved.numpy() <= upper).all()
    furthest = _distances(moved, images).max()
    assert furthest > 0.99 * min(epsilon, 0.2 * pixels)  # not merely the images


def test_points_inside_stay_as_they_are() -> None:
    images = _images(20, 6)
    points = (images + 0.01 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    assert torch.equal(contained(points, images, 1.0, PIXELS), points)


def test_broken_points_give_way_to_the_image() -> None:
    images = _images(4, 3)
    points = images + 0.1
    points[0, 0, 0, 0] = torch.nan
    points[1, 0, 2, 1] = torch.inf
    moved = contained(points, images, 0.5, PIXELS)
    assert torch.equal(moved[:2], images[:2])
    assert not torch.equal(moved[2:], images[2:])
    assert inside(points, images, 0.5, unbounded(0.5)).tolist() == [False, False, True, True]


def test_a_ball_below_rounding_leaves_the_image() -> None:
    images = _images(4, 28).clamp_min(0.5)
    moved = contained(images + 1e-6, images, 1e-9, PIXELS)
    assert torch.equal(moved, images)


def test_a_point_just_outside_is_outside() -> None:
    image = torch.zeros(1, 2, dtype=torch.float64)
    for length, within in ((0.5, True), (np.nextafter(0.5, 1), False)):
        assert inside(torch.tensor([[length, 0.0]], dtype=torch.float64), image, 0.5, PIXELS).item() is within
    assert not inside(torch.tensor([[-1e-12, 0.0]], dtype=torch.float64), image, 0.5, PIXELS)


def test_projection_by_hand() -> None:
    image = torch.tensor([[0.0, 0.5]], dtype=torch.float64)
    points = torch.tensor([[-3.0, 4.5]], dtype=torch.float64)  # 5 away, in direction (-3, 4)/5
    torch.testing.assert_close(project(points, image, 0.5, unbounded(1)), image + torch.tensor([[-0.3, 0.4]]).double())
    torch.testing.assert_close(project(points, image, 0.5, PIXELS), torch.tensor([[0.0, 0.9]]).double())


@pytest.mark.parametrize("attack", [pgd, random_search])
@pytest.mark.parametrize("pixel", [-0.01, 1.01, float("nan")])
def test_pixels_outside_of_the_box_are_refused(attack, pixel: float) -> None:  # type: ignore[no-untyped-def]
    images = _images(2, 3)
    images[1, 0, 0, 0] = pixel
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 3)).eval()
    with pytest.raises(ValueError, match=r"pixels in \[0, 1\]"):
        attack(model, images, torch.zeros(2).long(), 0.1)


@pytest.mark.parametrize("box", [PIXELS, unbounded(0.1)])
def test_pixels_on_the_edge_are_fine(box: Box) -> None:
    check_pixels(torch.tensor([[0.0, 1.0]]), box)
