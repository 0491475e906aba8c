"""The job finds what it is made for: bounds with a small fault planted in them are refuted within a round."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lipcert.bounds import Analysis, logit_rounding
from lipcert.crown.ball_box import Pieces, Remainder, least_remainder
from lipcert.norms import UpperNorms
from lipcert.norms.lanczos import Bracket
from tests.fuzz.checks import check
from tests.fuzz.rounds import run_round
from tests.fuzz.subject import RefutedError


def _smaller_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms are too small by a percent."""
    bound: Callable[..., Bracket] = UpperNorms._bound

    def smaller(*arguments: object) -> Bracket:
        lower, upper = bound(*arguments)
        return Bracket(lower, 0.99 * upper)

    monkeypatch.setattr(UpperNorms, "_bound", smaller)


def _no_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates of executed networks are those of exact ones."""

    def nothing(analysis: Analysis, labels: Tensor) -> Tensor:
        return torch.zeros_like(logit_rounding(analysis, labels))

    monkeypatch.setattr("lipcert.certificates.certifier.logit_rounding", nothing)


def _no_price_of_balls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backward bounds over a ball leave out the term in its radius."""

    def free(pieces: Pieces, radius: Tensor, box: Tensor, multiplier: Tensor | None = None) -> Remainder:
        found = least_remainder(pieces, radius, box, multiplier)
        return found._replace(value=found.value + found.curvature / 2 * radius.square())

    monkeypatch.setattr("lipcert.crown.substitution.least_remainder", free)


@pytest.mark.parametrize("plant", [_smaller_norms, _no_rounding, _no_price_of_balls])
def test_a_planted_fault_is_refuted(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(RefutedError):
        run_round(0, check, simplify=False)
