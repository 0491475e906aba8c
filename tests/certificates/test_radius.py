"""Bisection over epsilon: radii that were proved, never more, to the resolution asked for."""

from __future__ import annotations

import torch
from torch import Tensor

from lipcert.certificates import bisect

LIMITS = torch.tensor([0.0, 0.3, 1.0, 7.0], dtype=torch.float64)
"""The largest radius of each image that can be proved."""


class Oracle:
    """Proves a radius up to `LIMITS`, a share of it beyond; keeps what was tried."""

    def __init__(self, beyond: float = 0.0) -> None:
        self.beyond = beyond
        self.tried: list[tuple[list[int], Tensor]] = []

    def __call__(self, rows: Tensor, radii: Tensor) -> Tensor:
        self.tried.append((rows.tolist(), radii))
        return torch.where(radii <= LIMITS[rows], radii, self.beyond * LIMITS[rows])


def test_radii_are_proved_and_close_to_the_limits() -> None:
    nothing, oracle = torch.zeros_like(LIMITS), Oracle()
    radii = bisect(oracle, nothing, torch.full_like(nothing, 2.0), 20)
    assert (radii <= LIMITS).all()
    assert (radii[:3] >= LIMITS[:3] - 1e-5).all()
    assert len(oracle.tried) == 20
    assert torch.equal(nothing, torch.zeros_like(LIMITS))


def test_what_an_attempt_proves_beside_its_radius_counts() -> None:
    nothing = torch.zeros_like(LIMITS)
    assert torch.equal(bisect(Oracle(beyond=0.9), nothing, torch.full_like(nothing, 9.0), 1)[:3], 0.9 * LIMITS[:3])


def test_without_a_refused_radius_it_goes_out_by_factors_of_two() -> None:
    proved, oracle = torch.full_like(LIMITS, 0.25), Oracle()
    bisect(oracle, proved, torch.full_like(proved, torch.inf), 3, farthest=1.5)
    assert [radii[3].item() for _, radii in oracle.tried] == [1.5, 3.0, 6.0]
    assert [radii[1].item() for _, radii in oracle.tried] == [1.5, 0.875, 0.5625]


def test_images_known_to_the_resolution_are_left_alone() -> None:
    proved, oracle = torch.tensor([0.0, 0.2, 0.9, 5.0], dtype=torch.float64), Oracle()
    radii = bisect(oracle, proved, torch.tensor([0.0, 1.0, 1.05, 4.0], dtype=torch.float64), 10, resolution=0.1)
    assert {row for rows, _ in oracle.tried for row in rows} == {1, 2}
    assert (radii >= proved).all()
    assert len(oracle.tried) < 10
