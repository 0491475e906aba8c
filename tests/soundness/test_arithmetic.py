"""Rounding and precision: nothing is refuted of a sound certifier, and falsified numbers are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lipcert.certificates import Certificate, Certifier
from lipcert.soundness import arithmetic
from lipcert.soundness.arithmetic import compare_precisions, compare_rounding
from tests.oracles import points_in_ball
from tests.soundness.trained import certified, trained

KINDS = ("clipped_relu", "maxmin")


def _points(kind: str) -> list[Tensor]:
    target, _ = certified(kind)
    return list(points_in_ball(target.images, target.epsilon * (1 - 1e-6), 3))


@pytest.mark.parametrize("kind", KINDS)
def test_rounding_stays_within_what_certificates_allow_for(kind: str) -> None:
    target, _ = certified(kind)
    found = compare_rounding(trained(kind), target, _points(kind))
    assert (found.points, found.above, found.refutations) == (4 * len(target), 0, ())
    assert 0 < found.largest_error < 1e-4
    assert 0 < found.largest_share < 0.1
    assert 0 < found.largest_pair_share < 0.1


def test_certificates_that_allow_for_too_little() -> None:
    target, _ = certified("clipped_relu")
    found = compare_rounding(trained("clipped_relu"), replace(target, rounding=target.rounding * 1e-6), [])
    assert found.above > 100
    assert "executed logits differ from those of float64 by" in found.refutations[0]
    assert found.refutations[0].startswith(f"image {int(target.indices[0])}:")


def test_pairs_that_allow_for_too_little(monkeypatch: pytest.MonkeyPatch) -> None:
    correct = arithmetic.logit_rounding
    monkeypatch.setattr(arithmetic, "logit_rounding", lambda *arguments: correct(*arguments) * 1e-6)
    assert compare_rounding(trained("clipped_relu"), certified("clipped_relu")[0], []).above > 100


@pytest.mark.parametrize("kind", KINDS)
def test_float64_refuses_nothing(kind: str) -> None:
    target, stages = certified(kind)
    found = compare_precisions(trained(kind), target, stages, 0)
    assert (found.refused, found.refutations) == (0, ())
    assert found.certified > 0.9 * len(target)


class _SingleOnly(Certifier):
    """Refuses the first image of every batch in float64."""

    def __call__(self, images: Tensor, *arguments: Any) -> Certificate:
        certificate = super().__call__(images, *arguments)
        if images.dtype == torch.float64:
            certificate.certified[0] = False
        return certificate


def test_images_that_float64_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "Certifier", _SingleOnly)
    target, stages = certified("clipped_relu")
    found = compare_precisions(trained("clipped_relu"), target, stages, 0)
    assert found.refused == len(found.refutations) > 0
    assert "refused in float64" in found.refutations[0]
