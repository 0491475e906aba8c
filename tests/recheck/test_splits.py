"""Branch and bound of the re-check on chains of single neurons, where nothing hides what is taken too lightly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lipcert.recheck.ascent import ascended
from lipcert.recheck.backward import Backward
from lipcert.recheck.ball_box import Choice
from lipcert.recheck.derivation import Derivation
from lipcert.recheck.norms import Norms
from lipcert.recheck.program import compile_program
from lipcert.recheck.splits import Kink, Part, _sides, least_of_parts
from lipcert.recheck.substitution import Known, substituted
from tests.crown.relaxed import tiny
from tests.recheck.chains import narrow

KINDS = ("relu", "clipped_relu", "maxmin", "clipped_maxmin")
EPSILON, MIDDLE = 0.5, 0.25


@pytest.fixture(autouse=True)
def fixture_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here needs more, and what cannot be proved would take all."""
    for name, steps in {"WHOLE": 15, "TRIED": 2, "CHOSEN": 6, "CANDIDATES": 2, "PARTS": 12}.items():
        monkeypatch.setattr(f"lipcert.recheck.splits.{name}", steps)


def _known(model: nn.Sequential, width: int) -> Known:
    image = torch.full((width,), MIDDLE)
    return Backward(Derivation(compile_program(model, (width,)), image, EPSILON, False, False, Norms())).known


def _disc(width: int) -> Tensor:
    """Return points of the ball, (P, width)."""
    angle, length = (torch.linspace(0, end, 151, dtype=torch.float64) for end in (2 * torch.pi, EPSILON))
    points = torch.stack((angle.cos(), angle.sin()), dim=1)[:, None, :width] * length[:, None]
    return MIDDLE + points.flatten(0, 1)


def _kinks(known: Known) -> list[Kink]:
    return [
        Kink(target, outer, int(entry), float(place[entry]))
        for target, bends in known.bends.items()
        for outer, clamp in ((False, bends.inner), (True, bends.outer))
        if clamp is not None
        for place in (clamp.low, clamp.high)
        for entry in ((clamp.lower < place) & (place < clamp.upper)).nonzero()[:, 0]
    ]


def _entries(known: Known, kink: Kink, points: Tensor) -> Tensor:
    """Return what the clamp of a kink takes at points, (P,)."""
    program = known.derived.program
    (step,) = (step for step in program.steps if step.target == kink.target)
    before = program(points)[step.source]  # type: ignore[union-attr]
    if known.bends[kink.target].axis is None:
        return before[:, kink.entry]
    first, second = before.chunk(2, dim=1)
    if not kink.outer:
        return ((first - second) / 2**0.5)[:, kink.entry]
    return torch.cat((torch.maximum(first, second), torch.minimum(first, second)), dim=1)[:, kink.entry]


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_bounds_of_parts_hold_at_all_points_of_theirs_at_any_slopes(kind: str, residual: bool) -> None:
    tried, count = 0, 40
    for seed in range(4):
        width = 2 if "maxmin" in kind else 1
        known, points = _known(narrow(kind, residual, seed), width), _disc(width)
        rows, program = torch.randn(count, width, dtype=torch.float64), known.derived.program
        values = program(points)[program.output] @ rows.T
        for kink in _kinks(known):
            entries = _entries(known, kink, points)
            inside = (entries <= kink.place, entries >= kink.place)
            assert bool((inside[0] | inside[1]).all())
            for side, within in zip(_sides(Part(known, None, rows[:1, 0]), kink), inside, strict=True):
                clamps = [each for bends in side.known.bends.values() for each in (bends.inner, bends.outer) if each]
                choices = {
                    each: Choice(
                        3 * torch.rand(count, 2, len(each.index)).double() - 1, 8 * torch.rand(count).double() - 3
                    )
                    for each in clamps
                }
                found, _ = substituted(side.known, program.output, rows, choices, {})
                if bool(within.any()):
                    assert bool((found <= values[within].amin(dim=0) + 1e-9).all())
                    tried += 1
    assert tried > 2


@pytest.mark.parametrize("kind", ["relu", "maxmin"])
def test_all_parts_together_prove_what_one_bound_does_not_and_nothing_more(kind: str) -> None:
    model = tiny(kind, 1)
    known = _known(model, 3)
    directions = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points = MIDDLE + EPSILON * directions / directions.norm(dim=1, keepdim=True)
    row = torch.tensor([[1.0, -1.0, 0.0]]).double()
    low = (model(points) @ row[0]).min().view(1)
    one, _ = ascended(known, known.derived.program.output, row, 15, low)
    goal = low - 0.7 * (low - one)
    found = least_of_parts(known, row, goal)
    assert bool((one < goal) & (goal < found) & (found <= low + 1e-12))
    assert float(least_of_parts(known, row, low + 1e-6)) == -torch.inf


def test_the_first_row_that_stays_open_ends_the_search() -> None:
    known = _known(narrow("relu", False, 0), 1)
    rows = torch.tensor([[1.0], [-1.0]]).double()
    assert least_of_parts(known, rows, torch.tensor([-9.0, -9.0]).double()).isfinite().all()
    assert (least_of_parts(known, rows, torch.tensor([9.0, -9.0]).double()) == -torch.inf).all()
    assert (least_of_parts(known, rows, torch.tensor([-9.0, torch.nan]).double()) == -torch.inf).all()
