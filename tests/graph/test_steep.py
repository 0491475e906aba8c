"""Steep and smooth activations against fine grids of points in float64, max pooling against its windows."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from lipcert.bounds import Arithmetic, Bound, analyze, logit_rounding, robust_margin, worst_logits
from lipcert.graph import Enclosed, Nonlinearity, Smooth
from lipcert.graph.activations import nonlinearity
from lipcert.nn import Abs, Householder
from lipcert.norms import PowerNorms
from lipcert.recheck.activations import describe_activation
from lipcert.recheck.derivation import Derivation
from lipcert.recheck.norms import Norms as RecheckNorms
from lipcert.recheck.program import compile_program
from tests.oracles import ExactNorms

ENDS = (-30.0, -5.0, -2.5, -2.0, -1.45, -1.28, -1.0, -0.76, -0.3, 0.0, 0.2, 1.0, 1.41, 1.43, 2.35, 2.45, 6.0, 40.0)
BOXES = torch.tensor([each for each in itertools.product(ENDS, ENDS) if each[0] <= each[1]], dtype=torch.float64).T
GRID = torch.linspace(0, 1, 2001, dtype=torch.float64)[:, None]


def _prelu() -> nn.Module:
    layer = nn.PReLU(1)
    nn.init.constant_(layer.weight, -1.3)
    return layer


LAYERS = {
    "relu6": nn.ReLU6,
    "hardtanh": lambda: nn.Hardtanh(-1.1, 0.3),
    "leaky": nn.LeakyReLU,
    "leaky, steep": lambda: nn.LeakyReLU(1.7),
    "leaky, falling": lambda: nn.LeakyReLU(-0.4),
    "prelu": _prelu,
    "absolute": Abs,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "gelu, tanh": lambda: nn.GELU("tanh"),
    "softplus": lambda: nn.Softplus(beta=2.0, threshold=100),
}


def _constant(function: Nonlinearity) -> float:
    return (
        1.0 if function.lipschitz is None else float(torch.as_tensor(function.lipschitz, dtype=torch.float64).detach())
    )


def _points(lower: Tensor, upper: Tensor) -> Tensor:
    """Return 2001 points of each box, (points, boxes)."""
    return (lower + GRID * (upper - lower)).clamp(lower, upper)


@pytest.mark.parametrize("name", LAYERS)
class TestElementwise:
    def test_values_ranges_and_constants(self, name: str) -> None:
        layer = LAYERS[name]().double()
        function, (lower, upper) = nonlinearity(layer, (1,)), BOXES
        points = _points(lower, upper)
        with torch.no_grad():
            values = layer(points.reshape(-1, 1)).view_as(points)
            torch.testing.assert_close(
                function.apply(points.reshape(-1, 1)).view_as(points), values, rtol=0, atol=1e-14
            )
            least, greatest = (end[:, 0] for end in function.range(lower[:, None], upper[:, None]))
        assert ((values >= least) & (values <= greatest)).all()
        width = (upper - lower) / 2000
        constant = _constant(function)
        slack = 1e-9 + 1.7 * width  # no value lies further beyond those of the grid
        assert (values.amin(dim=0) - least <= slack).all()
        assert (greatest - values.amax(dim=0) <= slack).all()
        steps = (values[1:] - values[:-1]).abs()
        assert (steps <= constant * width + 1e-12).all()
        assert constant <= 1.7 + 1e-6
        everywhere = torch.linspace(-9, 9, 20001, dtype=torch.float64)[:, None]
        met = float(layer(everywhere).detach().diff(dim=0).abs().max()) / 9e-4
        assert constant == pytest.approx(met, rel=1e-5)
        assert function.slopes is not None
        slopes = layer(everywhere).detach().diff(dim=0) / 9e-4
        assert function.slopes[0] <= slopes.min() + 1e-9
        assert function.slopes[1] >= slopes.max() - 1e-9

    def test_lines_enclose_smooth_ones(self, name: str) -> None:
        function, (lower, upper) = nonlinearity(LAYERS[name]().double(), (1,)), (end[:, None] for end in BOXES)
        if not isinstance(function, Smooth):
            return
        lines = function.lines(lower, upper)
        points = _points(*BOXES)
        values = function.apply(points.reshape(-1, 1)).view_as(points)
        below = lines.lower_slope[:, 0, 0] * points + lines.lower_intercept[:, 0]
        above = lines.upper_slope[:, 0, 0] * points + lines.upper_intercept[:, 0]
        assert (below <= values).all()
        assert (above >= values).all()
        least, greatest = values.amin(dim=0), values.amax(dim=0)
        middle = points[1000]
        assert (below[1000] >= least - 1e-3 * (1 + middle.abs())).all()  # no worse than constants
        assert (above[1000] <= greatest + 1e-3 * (1 + middle.abs())).all()
        narrow = (BOXES[1] - BOXES[0] < 1).nonzero()[:, 0]
        assert ((above - below)[1000, narrow] <= 0.21).all()
        steps = torch.linspace(-9, 9, 18001, dtype=torch.float64)[:, None]
        slopes = function.derivative(steps)
        assert float(slopes.diff(dim=0).abs().max()) / 1e-3 <= function.curvature

    def test_gains_are_the_steepest_slopes_of_boxes(self, name: str) -> None:
        layer = LAYERS[name]().double()
        function, (lower, upper) = nonlinearity(layer, (1,)), BOXES
        gains = function.gains(lower[:, None], upper[:, None])
        if gains is None:
            gains = function.varying(lower[:, None], upper[:, None])
        assert gains is not None
        gains, points = gains.detach()[:, 0], _points(lower, upper)
        width = (upper - lower) / 2000
        values = layer(points.reshape(-1, 1)).detach().view_as(points)
        steepest = ((values[1:] - values[:-1]).abs() - 1e-14).amax(dim=0) / width.clamp_min(1e-12)
        some = width > 0
        assert (steepest <= gains * (1 + 1e-9) + 1e-8)[some].all()
        if name not in ("relu6", "hardtanh"):
            curved = 0.8 * 1.7 * width  # |σ''| is below 0.8 for all of them, and 2 for a Softplus of beta 2
            assert (gains - steepest <= 1e-8 + 3 * curved)[some].all()
        nan = torch.full((1, 1), math.nan, dtype=torch.float64)
        found = function.gains(nan, nan)
        assert found is None or not (found < 1e-3).any()

    def test_the_recheck_says_so_too(self, name: str) -> None:
        layer, (lower, upper) = LAYERS[name]().double(), (end[:, None] for end in BOXES)
        if isinstance(layer, nn.Tanh | nn.Sigmoid | nn.SiLU | nn.GELU | nn.Softplus):
            with pytest.raises(NotImplementedError):
                describe_activation(layer, "a")
            return
        mine, other = nonlinearity(layer, (1,)), describe_activation(layer, "a")
        with torch.no_grad():
            torch.testing.assert_close(other(lower), layer(lower))
            torch.testing.assert_close(other.box(lower, upper), mine.range(lower, upper))
            gains = mine.gains(lower, upper)
            assert (other.gains(lower, upper) is None) == (gains is None)
            if gains is not None:
                torch.testing.assert_close(other.gains(lower, upper), gains)
        assert other.constant == pytest.approx(
            1.0 if mine.lipschitz is None else float(torch.as_tensor(mine.lipschitz).detach())
        )


@pytest.mark.parametrize("name", [*LAYERS, "pooling", "householder"])
def test_they_are_trained_on(name: str) -> None:
    """In float32, with slopes of their own: every weight has a gradient."""
    torch.manual_seed(0)
    others = {"pooling": lambda: nn.MaxPool2d(3, 2, 1), "householder": lambda: Householder(4)}
    layer = {**LAYERS, **others}[name]()
    body = (nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular"), layer, nn.ConvTranspose2d(4, 4, 3, padding=1))
    model = nn.Sequential(*body, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))
    labels = torch.tensor([0, 0])
    analysis = analyze(model, torch.rand(2, 1, 8, 8), 0.1, "tight", PowerNorms())
    margins = robust_margin(worst_logits(analysis, labels), labels)
    assert margins.dtype == torch.float32
    margins.sum().backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert (parameter.grad != 0).any()


def test_what_a_constant_output_is_off_by_reaches_the_logits() -> None:
    """The nearest float32 to 0.1 is another number, where every neuron is constant, too."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 400), nn.Hardtanh(-0.1, 0.1), nn.Linear(400, 2)).eval()
    model.requires_grad_(False)
    model[1].bias.fill_(50)
    model[3].weight.fill_(4)
    model[3].weight[1].fill_(-4)
    model[3].bias.zero_()
    images, label = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])
    executed = model(images).double().diff(dim=1).item()
    exact = copy.deepcopy(model).double()(images.double()).diff(dim=1).item()
    drift = 3200 * abs(float(torch.tensor(0.1, dtype=torch.float32)) - 0.1)
    assert abs(executed - exact) > drift / 2
    arithmetic = Arithmetic.of(torch.float32, torch.float32)
    twin = copy.deepcopy(model).double()
    for bound in Bound:
        found = analyze(twin, images.double(), 0.01, bound, ExactNorms(), arithmetic=arithmetic)
        assert found.region.rounding is not None
        assert float(logit_rounding(found, label)[0, 1]) >= drift
        assert found.region.rounding.inherited is not None
        stray = found.region.rounding.inherited.stray
        if bound in (Bound.LOCAL, Bound.TIGHT):  # whose masks leave constant outputs out
            assert stray is not None
            assert float(stray) >= 0.9 * 20 * drift / 3200
    program = replace(compile_program(model, (1, 2, 2)), dtype=torch.float32)
    derived = Derivation(program, images[0], 0.01, False, True, RecheckNorms())
    assert derived.reaches[-2].executed.stray >= 0.9 * 20 * drift / 3200
    assert float(derived.logits.executed.entries.max()) >= drift / 2


POOLS = {
    "apart": (nn.MaxPool2d(2), 1),
    "overlapping": (nn.MaxPool2d(3, 2, 1), 4),
    "one by one": (nn.MaxPool2d((2, 3), 1), 6),
    "gaps": (nn.MaxPool2d(2, 3), 1),
    "ceil mode": (nn.MaxPool2d(3, 2, ceil_mode=True), 4),
    "dilated": (nn.MaxPool2d(2, 2, dilation=2), 4),
    "dilated, odd": (nn.MaxPool2d(2, 2, 1, dilation=3), 1),
}


@pytest.mark.parametrize("name", POOLS)
def test_max_pooling(name: str) -> None:
    """Windows by execution: an input is in those that follow where it alone is raised."""
    layer, windows = POOLS[name]
    shape, generator = (2, 7, 6), torch.Generator().manual_seed(0)
    functions = nonlinearity(layer, shape), describe_activation(layer, "a")
    size = math.prod(shape)
    raised = layer(torch.eye(size, dtype=torch.float64).view(size, *shape)).flatten(1)
    most = int(raised.sum(dim=1).max())
    assert most <= windows
    function, other = functions
    assert function.output_shape(shape) == layer(torch.zeros(1, *shape)).shape[1:]
    constant = _constant(function)
    assert constant == pytest.approx(math.sqrt(windows))
    assert other.constant >= math.sqrt(most)
    lower = torch.randn(20, *shape, generator=generator, dtype=torch.float64)
    upper = lower + 0.7 * torch.rand(lower.shape, generator=generator, dtype=torch.float64)
    least, greatest = function.range(lower, upper)
    needed = function.needed(lower, upper)
    assert needed is not None
    assert 0.1 < needed.mean() < 0.95
    again = torch.cat([other.masks(lower[[each]], upper[[each]]).needed for each in range(20)])
    assert torch.equal(again, needed) or (layer.ceil_mode and bool((again == 1).all()))
    for _ in range(10):
        first, second = (
            lower + (upper - lower) * torch.rand(lower.shape, generator=generator, dtype=torch.float64) for _ in "ab"
        )
        values = layer(first)
        assert ((values >= least) & (values <= greatest)).all()
        torch.testing.assert_close(function.apply(first), values)
        assert torch.equal(layer(torch.where(needed > 0, first, second)), values)
        assert isinstance(function, Enclosed)
        below, start, above, end = function.lines(lower, upper)
        for slopes, offset, sign in ((below, start, 1), (above, end, -1)):
            rows = torch.eye(least[0].numel()).double().view(-1, *least.shape[1:])
            line = [(function.gathered(slopes[:1] * each[None, None], shape) * first[:1]).sum() for each in rows]
            assert (sign * (values[0].flatten() - torch.stack(line) - offset[0].flatten()) >= -1e-12).all()
        moved = (layer(second) - values).flatten(1).norm(dim=1)
        assert (moved <= constant * ((second - first) * needed).flatten(1).norm(dim=1) * (1 + 1e-12)).all()
    nan = torch.full_like(lower, math.nan)
    assert torch.equal(function.needed(nan, nan)[0].flatten() > 0, raised.sum(dim=1) > 0)  # type: ignore[index]


def test_every_pixel_counts_that_alone_decides() -> None:
    function = nonlinearity(nn.MaxPool2d(2), (1, 2, 2))
    lower = torch.tensor([[[[0.0, 1.0], [2.0, -1.0]]]])
    upper = torch.tensor([[[[2.5, 1.5], [3.0, 2.0]]]])
    found = function.needed(lower, upper)
    assert found is not None
    assert found.flatten().tolist() == [1, 0, 1, 0]
