"""Certified radii by one bound: every radius was itself proved, at epsilon or in a bisection around it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.certificates import Certificate, Certifier

RESOLUTION = 0.02
"""An image is settled when its radius is known to this share of epsilon."""


@dataclass(frozen=True)
class Radii:
    """What one bound proves of a batch.

    Attributes:
        radius: proved, (B,) float64, in pixels of [0, 1]; 0 where the prediction is wrong.
        certificate: of the whole batch at epsilon.
    """

    radius: Tensor
    certificate: Certificate


def _next(proved: Tensor, refused: Tensor, farthest: float) -> Tensor:
    """Return where to try next, (B,): between what is proved and refused, else farther out."""
    outward = torch.where(proved < farthest, farthest, 2 * proved)
    return torch.where(refused.isinf(), outward, (proved + refused) / 2)


def certified_radii(
    certifier: Certifier,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    known: Tensor,
    farthest: float,
    rounds: int,
    advance: Callable[[], object] = lambda: None,
) -> Radii:
    """Return certified radii; an image is certified at epsilon exactly where the certifier alone certifies it there.

    A proof at one radius holds at every smaller one, so `radius >= r` says that the image is certified at r. What is
    refused at one radius is never claimed at larger ones, which only makes the answer smaller.

    Args:
        certifier: of the network and one bound.
        images: (B, C, H, W), pixels in [0, 1]; labels: (B,).
        epsilon: l2 radius that every image is tried at, first.
        known: radii that a looser bound proved, (B,) float64.
        farthest: > epsilon; tried second where epsilon is certified, then its multiples by 2.
        rounds: further trials an image at most.
        advance: called after each trial of the batch.
    """
    at_epsilon = certifier(images, labels, epsilon)
    advance()
    correct = at_epsilon.correct(labels)
    proved = torch.where(correct, torch.maximum(known, at_epsilon.radius.double()), 0.0)
    refused = torch.full_like(proved, epsilon).masked_fill(at_epsilon.certified, torch.inf)
    for _ in range(rounds):
        rows = (correct & (refused - proved > RESOLUTION * epsilon)).nonzero()[:, 0]
        if len(rows):
            tried, at = _next(proved[rows], refused[rows], farthest), rows.to(images.device)
            found = certifier(images[at], labels[at], tried.to(images.device))
            proved[rows] = torch.maximum(proved[rows], found.radius)
            refused[rows] = torch.where(found.certified, refused[rows], torch.minimum(refused[rows], tried))
        advance()
    return Radii(proved, at_epsilon)
