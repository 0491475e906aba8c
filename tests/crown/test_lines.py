"""Lines around clamps, against the clamp at many points."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lipcert.crown import Rows, State, split_activations, substitute
from lipcert.crown.lines import Interval, Lines, Slopes
from lipcert.crown.state import sizes_of
from lipcert.graph import compile_graph
from lipcert.nn import ClippedReLU

NUMBER = st.floats(-3, 3, width=32)


def _one(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


def _interval(lower: float, upper: float, low: float, high: float) -> Interval:
    return Interval.of(_one(lower), _one(upper), _one(low), _one(high))


def _clamp(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


@given(
    ends=st.tuples(NUMBER, NUMBER).map(sorted),
    low=st.one_of(NUMBER, st.just(-math.inf)),
    width=st.one_of(st.floats(0, 3), st.just(math.inf)),
    shares=st.tuples(st.floats(-1, 2), st.floats(-1, 2)),
)
@settings(max_examples=100, deadline=None)
def test_any_slope_gives_lines_on_either_side(ends, low, width, shares) -> None:  # type: ignore[no-untyped-def]
    lower, upper = ends
    high = width if low == -math.inf else low + width
    interval = _interval(lower, upper, low, high)
    for lines in (interval.lines(Slopes(_one(shares[0]), _one(shares[1]))), interval.lines(interval.closest())):
        for step in range(41):
            z = lower + (upper - lower) * step / 40
            value = _clamp(z, low, high)
            assert lines.lower_slope.item() * z + lines.lower_intercept.item() <= value + 1e-9
            assert lines.upper_slope.item() * z + lines.upper_intercept.item() >= value - 1e-9


def _numbers(lines: Lines) -> list[float]:
    return [
        each.item() for each in (lines.lower_slope, lines.lower_intercept, lines.upper_slope, lines.upper_intercept)
    ]


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ((-1, 3, 0, math.inf), [1, 0, 3 / 4, 3 / 4]),  # ReLU, steep: u > -l
        ((-3, 1, 0, math.inf), [0, 0, 1 / 4, 3 / 4]),
        ((1, 2, 0, math.inf), [1, 0, 1, 0]),
        ((-2, -1, 0, math.inf), [0, 0, 0, 0]),
        ((-1, 4, 0, 2), [1 / 2, 0, 2 / 3, 2 / 3]),  # both kinks: free lines through them, touching the far end
        ((1, 5, 0, 2), [1 / 4, 3 / 4, 0, 2]),  # bends down alone
        ((3, 5, 0, 2), [0, 2, 0, 2]),
        ((1, 1, 0, 2), [1, 0, 1, 0]),  # a point
        ((3, 3, 0, 2), [0, 2, 0, 2]),
    ],
)
def test_closest_lines_by_hand(case: tuple[float, ...], expected: list[float]) -> None:
    interval = _interval(*case)
    assert _numbers(interval.lines(interval.closest())) == pytest.approx(expected)


@pytest.mark.parametrize(("point", "slope"), [(1, 1), (-1, 0), (3, 0)])
def test_the_chord_of_a_point_is_the_slope_there(point: float, slope: float) -> None:
    assert _interval(point, point, 0, 2).chord().item() == slope


@pytest.mark.parametrize("case", [(math.nan, 1, 0, 1), (-1, math.nan, 0, 1), (-1, 1, 0, math.nan)])
def test_nan_stays_nan(case: tuple[float, ...]) -> None:
    interval = _interval(*case)
    lines = interval.lines(interval.closest())
    assert lines.lower_intercept.isnan().all()
    assert lines.upper_intercept.isnan().all()


@pytest.mark.parametrize("high", [math.inf, 0.5])
def test_rows_with_chosen_slopes_allow_for_their_rounding(high: float) -> None:
    """In float32, against the largest sound constant of the lines: at ends and kinks, in float64."""
    torch.manual_seed(0)
    activation = nn.ReLU() if high == math.inf else ClippedReLU((50,), high)
    model = nn.Sequential(activation, nn.Linear(50, 3)).eval().requires_grad_(False)
    network = split_activations(compile_graph(model, (50,)))
    (bend,) = network.activations
    lower, upper = -torch.rand(1, 50), torch.rand(1, 50)
    coefficients = torch.randn(200, 50)
    chosen = {bend.index: coefficients * torch.rand(200, 50)}
    boxes, rows = {bend.index: (lower, upper)}, Rows.of(coefficients, torch.zeros(200, dtype=torch.int64))
    state = State(boxes, sizes_of(network, torch.maximum(-lower, upper), boxes), chosen)
    found = substitute(network, rows, state, bend.index)
    points = [
        each.double().clamp(lower.double(), upper.double()) for each in (lower, upper, 0 * upper, 0 * upper + high)
    ]
    gaps = [rows.coefficients.double() * p.clamp(0, high) - found.coefficients.double() * p for p in points]
    largest = torch.stack(gaps).amin(dim=0).sum(dim=1)
    assert (found.constant.double() - found.slack.double() <= largest).all()
    assert (found.constant.double() > largest).any()
    assert (found.slack > 0).all()
    assert (substitute(network, rows, State(boxes, None, chosen), bend.index).slack == 0).all()
