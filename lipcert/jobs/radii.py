"""Certified radii by one bound: every radius was itself proved, at epsilon or in a bisection around it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.certificates import Certificate, Certifier, bisect, certify_batches

RESOLUTION = 0.02
"""The bisection of an image ends when its radius is known to this share of epsilon."""


@dataclass(frozen=True)
class Radii:
    """What one bound proves of all images.

    Attributes:
        radius: proved, (N,) float64, in pixels of [0, 1]; 0 where the prediction is wrong.
        certificate: at epsilon.
    """

    radius: Tensor
    certificate: Certificate


def certified_radii(
    certifier: Certifier,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    known: Tensor,
    farthest: float,
    rounds: int,
    batch_size: int,
    advance: Callable[[], object] = lambda: None,
) -> Radii:
    """Return certified radii; an image is certified at epsilon exactly where the certifier alone certifies it there.

    A proof at one radius holds at every smaller one, so `radius >= r` says that the image is certified at r. What is
    refused at one radius is never claimed at larger ones, which only makes the answer smaller.

    Args:
        certifier: of the network and one bound.
        images: (N, C, H, W), pixels in [0, 1]; labels: (N,).
        epsilon: l2 radius that every image is tried at, first.
        known: radii that a looser bound proved, (N,) float64.
        farthest: > epsilon; tried second where epsilon is certified, then its multiples by 2.
        rounds: further trials an image at most.
        batch_size: images bounded at a time.
        advance: called after each trial of all images, at most 1 + `rounds` times.
    """

    def attempt(rows: Tensor, radii: Tensor) -> Tensor:
        proved = certify_batches(certifier, images[rows], labels[rows], radii, batch_size).radius
        advance()
        return proved

    certificate = certify_batches(certifier, images, labels, epsilon, batch_size)
    advance()
    correct = certificate.correct(labels)
    proved = torch.where(correct, torch.maximum(known, certificate.radius), 0)
    refused = torch.full_like(proved, epsilon).masked_fill(certificate.certified, torch.inf).masked_fill(~correct, 0)
    return Radii(bisect(attempt, proved, refused, rounds, RESOLUTION * epsilon, farthest), certificate)
