"""What bounds ask of activations, against min, max and grids of points: ends and thresholds of every order and sign."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lipcert.graph import Clamp, PairSort
from lipcert.graph.activations import nonlinearity
from lipcert.nn import ClippedMaxMin, ClippedReLU, MaxMin

Array = NDArray[np.float64]
INF = math.inf
ENDS = (-INF, -2.0, -1.0, 0.0, 0.5, 1.0, 2.0, INF)
THRESHOLDS = (-INF, -1.0, 0.0, 1.0, INF)
GRID = np.arange(-24, 25) / 8  # a point between any two ends, and beyond the last ones


def _clamp(values: Array, low: float, high: float) -> Array:
    return np.minimum(np.maximum(values, low), high)


@dataclass(frozen=True)
class Boxes:
    """All intervals and pairs of thresholds at once, side by side."""

    lower: Tensor
    upper: Tensor
    low: Tensor
    high: Tensor

    @property
    def function(self) -> Clamp:
        return Clamp(self.low, self.high)

    def rows(self) -> list[tuple[float, ...]]:
        return list(zip(*(each[0].tolist() for each in (self.lower, self.upper, self.low, self.high)), strict=True))


def _boxes() -> Boxes:
    intervals = [(lower, upper) for lower, upper in itertools.product(ENDS, ENDS) if lower <= upper]
    rows = [(*ends, *limits) for ends in intervals for limits in itertools.product(THRESHOLDS, THRESHOLDS)]
    return Boxes(*torch.tensor(rows, dtype=torch.float64).T[:, None])


BOXES = _boxes()


def _inside(lower: float, upper: float) -> Array:
    ends = [end for end in (lower, upper) if math.isfinite(end)]
    return np.array([*GRID[(lower <= GRID) & (upper >= GRID)], *ends])


def test_clamps_apply_min_and_max() -> None:
    for value in GRID[::8]:
        inputs = torch.full_like(BOXES.low, value)
        expected = [min(max(value, low), high) for _, _, low, high in BOXES.rows()]
        assert BOXES.function.apply(inputs)[0].tolist() == expected


def test_clamps_range_over_boxes() -> None:
    least, greatest = (each[0].tolist() for each in BOXES.function.range(BOXES.lower, BOXES.upper))
    for (lower, upper, low, high), first, last in zip(BOXES.rows(), least, greatest, strict=True):
        values = _clamp(_inside(lower, upper), low, high)
        assert (first <= values).all()
        assert (values <= last).all()


@pytest.mark.parametrize("what", ["varying", "needed"])
def test_clamps_vary_where_they_are_not_constant(what: str) -> None:
    found = getattr(BOXES.function, what)(BOXES.lower, BOXES.upper)
    assert found.dtype == torch.float64
    for (lower, upper, low, high), varies in zip(BOXES.rows(), found[0].tolist(), strict=True):
        values = _clamp(_inside(lower, upper), low, high)
        constant = len(values) == 0 or values.min() == values.max()
        if varies == 0:
            assert constant, (lower, upper, low, high)
        elif lower < upper:
            assert not constant, (lower, upper, low, high)


def test_clamps_are_linear_where_they_keep_every_point() -> None:
    found = BOXES.function.linear(BOXES.lower, BOXES.upper)
    assert found.dtype == torch.float64
    for (lower, upper, low, high), linear in zip(BOXES.rows(), found[0].tolist(), strict=True):
        inside = np.array([*_inside(lower, upper), lower, upper])
        kept = bool((_clamp(inside, low, high) == inside).all())
        assert bool(linear) <= kept, (lower, upper, low, high)
        assert bool(linear) == kept or lower == upper, (lower, upper, low, high)


def test_remainders_are_ranges_over_boxes() -> None:
    """σ(z') - σ(z) - (z' - z)/2 for z anywhere in the box; infinite boxes need no finite range."""
    for share in (0.0, 0.3, 1.0):
        center = torch.lerp(BOXES.lower.clamp(-9, 9), BOXES.upper.clamp(-9, 9), share)
        center = torch.minimum(torch.maximum(center, BOXES.lower), BOXES.upper)
        least, greatest = (each[0].tolist() for each in BOXES.function.remainder(center, BOXES.lower, BOXES.upper))
        for (lower, upper, low, high), z, first, last in zip(
            BOXES.rows(), center[0].tolist(), least, greatest, strict=True
        ):
            points = np.array([z, *_inside(lower, upper)])
            values = _clamp(points, low, high)
            if math.isfinite(lower) and math.isfinite(upper) and np.isfinite(values).all():
                bent = values - values[0] - (points - z) / 2
                assert (first, last) == pytest.approx((bent.min(), bent.max()), abs=1e-12), (lower, upper, low, high)


@pytest.mark.parametrize("entry", [0.0, 0.25, 1.0, INF, math.nan])
def test_rounding_passes_unless_the_output_cannot_move(entry: float) -> None:
    """No executed input, off by up to `entry`, moves the output of an exact one by more than what is returned."""
    found = BOXES.function.rounding(torch.full_like(BOXES.low, entry), BOXES.lower, BOXES.upper)
    for (lower, upper, low, high), allowed in zip(BOXES.rows(), found[0].tolist(), strict=True):
        exact = _inside(lower, upper)
        reach = entry if math.isfinite(entry) else 100.0
        known = _clamp(exact, low, high)
        for error in (-reach, reach):
            executed = _clamp(exact + error, low, high)
            moved = executed != known
            assert math.isnan(allowed) or (np.abs(executed[moved] - known[moved]) <= allowed).all()
        assert allowed in (0, entry) or math.isnan(entry)


@pytest.mark.parametrize("end", ["lower", "upper", "both"])
def test_nan_ends_leave_nothing_out(end: str) -> None:
    nan = torch.full_like(BOXES.lower, math.nan)
    lower, upper = nan if end != "upper" else BOXES.lower, nan if end != "lower" else BOXES.upper
    known = BOXES.function.varying(BOXES.lower, BOXES.upper)
    assert (BOXES.function.varying(lower, upper) >= known).all()
    if end == "both":
        assert (BOXES.function.varying(lower, upper) == 1).all()
    bounded = Clamp(-1.0, 1.0)
    assert (bounded.linear(lower, upper) == 0).all()
    assert all(each.isnan().all() for each in bounded.remainder(torch.zeros_like(nan), nan, nan))


@pytest.mark.parametrize(
    ("low", "high"), [(None, None), (-0.5, None), (None, 0.5), (-0.5, 0.5), (0.5, 0.5), (1.0, -1.0)]
)
def test_numbers_do_what_tensors_do(low: float | None, high: float | None) -> None:
    lower, upper = BOXES.lower, BOXES.upper
    tensors = Clamp(
        torch.full_like(lower, -INF if low is None else low), torch.full_like(lower, INF if high is None else high)
    )
    numbers, center, entries = Clamp(low, high), lower.clamp(-9, 9), torch.full_like(lower, 0.25)
    finite = lower.isfinite() & upper.isfinite()
    assert torch.equal(numbers.apply(center), tensors.apply(center))
    assert torch.equal(numbers.varying(lower, upper)[finite], tensors.varying(lower, upper)[finite])
    assert torch.equal(numbers.linear(lower, upper), tensors.linear(lower, upper))
    assert torch.equal(numbers.rounding(entries, lower, upper)[finite], tensors.rounding(entries, lower, upper)[finite])
    if low is not None and high is not None:
        pairs = zip(numbers.remainder(center, lower, upper), tensors.remainder(center, lower, upper), strict=True)
        assert all(torch.equal(first[finite], second[finite]) for first, second in pairs)


def _sorted_pair(a: Array, b: Array, low: float, high: float) -> tuple[Array, Array]:
    return np.minimum(np.maximum(a, b), high), np.maximum(np.minimum(a, b), low)


@dataclass(frozen=True)
class Pairs:
    """All boxes of pairs with all thresholds: lower and upper ends (1, 2, N), thresholds (1, 1, N)."""

    rows: list[tuple[float, ...]]
    lower: Tensor
    upper: Tensor
    low: Tensor
    high: Tensor

    @property
    def ordered(self) -> Tensor:
        """Where at most one of the inputs is never the smaller one."""
        (first_lower, second_lower), (first_upper, second_upper) = self.lower[0], self.upper[0]
        return ~((first_lower >= second_upper) & (second_lower >= first_upper))

    @property
    def function(self) -> PairSort:
        return PairSort(self.high, self.low)


def _pairs() -> Pairs:
    ends = (-INF, -1.0, 0.0, 1.0, INF)
    intervals = [each for each in itertools.product(ends, ends) if each[0] <= each[1]]
    limits = itertools.product((-1.0, 0.0, 0.5, 1.0), (-1.0, 0.0, 0.5, 1.0))
    rows = [(*first, *second, *limit) for limit in limits for first in intervals for second in intervals]
    columns = torch.tensor(rows, dtype=torch.float64).T
    lower, upper = torch.stack((columns[0], columns[2])), torch.stack((columns[1], columns[3]))
    return Pairs(rows, lower[None], upper[None], columns[4][None, None], columns[5][None, None])


PAIRS = _pairs()


def _outputs(row: tuple[float, ...]) -> tuple[Array, Array]:
    """Return both outputs over a grid of the box, (points of a, points of b) each."""
    first, second = (_inside(*row[index : index + 2])[:, None] for index in (0, 2))
    return _sorted_pair(first, second.T, *row[4:])


def test_outputs_of_pairs_vary_where_they_are_not_constant() -> None:
    found = PAIRS.function.varying(PAIRS.lower, PAIRS.upper)
    assert found is not None
    for row, *varies in zip(PAIRS.rows, *found[0].tolist(), strict=True):
        for output, varying in zip(_outputs(row), varies, strict=True):
            constant = output.size == 0 or output.min() == output.max()
            if not varying:
                assert constant, row
            elif row[0] < row[1] and row[2] < row[3]:
                assert not constant, row


def test_inputs_of_pairs_are_needed_where_an_output_depends_on_them() -> None:
    found = PAIRS.function.needed(PAIRS.lower, PAIRS.upper)
    assert found is not None
    for row, *needed in zip(PAIRS.rows, *found[0].tolist(), strict=True):
        outputs = _outputs(row)
        for axis, need in enumerate(needed):
            moves = any(output.size and (output.max(axis=axis) > output.min(axis=axis)).any() for output in outputs)
            if not need:
                assert not moves, row
            elif row[0] < row[1] and row[2] < row[3]:
                assert moves, row


@pytest.mark.parametrize("end", ["lower", "upper", "both"])
@pytest.mark.parametrize("half", [0, 1])
def test_nan_ends_of_pairs_leave_nothing_out(half: int, end: str) -> None:
    lower, upper = PAIRS.lower.clone(), PAIRS.upper.clone()
    for each in {"lower": (lower,), "upper": (upper,), "both": (lower, upper)}[end]:
        each[:, half] = math.nan
    for what in (PairSort.varying, PairSort.needed):
        known, found = what(PAIRS.function, PAIRS.lower, PAIRS.upper), what(PAIRS.function, lower, upper)
        assert known is not None
        assert found is not None
        assert (found >= known)[..., PAIRS.ordered].all()
        assert end != "both" or (found == 1).all()


def test_pairs_without_thresholds_leave_nothing_out() -> None:
    for each in (PairSort.varying, PairSort.needed, PairSort.linear):
        assert each(PairSort(), PAIRS.lower, PAIRS.upper) is None


LAYERS: dict[str, nn.Module] = {
    "relu": nn.ReLU(),
    "clipped_relu": ClippedReLU((4, 3, 2), 0.5),
    "maxmin": MaxMin(),
    "clipped_maxmin": ClippedMaxMin((4, 3, 2), 0.3, -0.2),
    "clipped_maxmin, crossed": ClippedMaxMin((4, 3, 2), -0.3, 0.2),
}


@pytest.mark.parametrize("name", LAYERS)
def test_rows_of_the_table_do_what_their_layers_do(name: str) -> None:
    """The steps of backward bounds, too, one after the other."""
    layer = LAYERS[name].double()
    torch.manual_seed(0)
    for parameter in layer.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    function = nonlinearity(layer, (4, 3, 2))
    inputs = torch.randn(50, 4, 3, 2, dtype=torch.float64)
    with torch.no_grad():
        expected = layer(inputs)
        assert torch.equal(function.apply(inputs), expected)
        for step in function.steps((4, 3, 2)):
            inputs = step.apply(inputs)
        assert torch.equal(inputs, expected)


def test_errors_of_pairs_are_those_of_the_larger() -> None:
    entries = torch.tensor([[1.0, 5.0, 2.0, 3.0]])
    assert PairSort().rounding(entries, entries, entries).tolist() == [[2.0, 5.0, 2.0, 5.0]]


@pytest.mark.parametrize("end", ["low", "high"])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_nan_thresholds_leave_nothing_out(end: str, as_tensor: bool) -> None:
    """Over boxes in which the other threshold decides nothing."""
    nan = torch.full((1, 3), math.nan, dtype=torch.float64) if as_tensor else math.nan
    upper = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    entries = torch.full_like(upper, 0.25)
    for other in (None, 0.0 if end == "high" else 5.0):
        function = Clamp(nan, other) if end == "low" else Clamp(other, nan)
        for lower in (-upper, upper / 2 if end == "high" else -upper / 2):
            assert (function.varying(lower, upper) == 1).all()
            assert (function.needed(lower, upper) == 1).all()
            assert (function.linear(lower, upper) == 0).all()
            assert torch.equal(function.rounding(entries, lower, upper), entries)
