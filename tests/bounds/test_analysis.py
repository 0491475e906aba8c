"""Regions: sampled points stay inside, tightening never widens, what cannot be followed is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lipcert.bounds import Analysis, Arithmetic, Bound, analyze, lipschitz_to_logits
from lipcert.graph.piecewise import Bend
from lipcert.nn import ClippedMaxMin, ClippedReLU, Residual
from lipcert.norms import UpperNorms
from tests.networks import NETWORKS, images, network
from tests.oracles import ExactNorms, points_in_ball
from tests.pairwise import pairwise

ACTIVATIONS = ("relu", "clipped_relu", "maxmin", "clipped_maxmin")
EPSILON = 0.3


def _analysis(model: nn.Module, inputs: Tensor, bound: Bound, epsilon: float = EPSILON, clip: bool = False) -> Analysis:
    with torch.no_grad():
        return analyze(model, inputs, epsilon, bound, ExactNorms(), clip)


def _values_at_activations(model: nn.Module, inputs: Tensor, names: list[str]) -> list[tuple[Tensor, Tensor]]:
    """Return (input, output) of the named layers for one forward pass."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    modules = dict(model.named_modules())
    handles = [
        modules[name].register_forward_hook(lambda _, before, after, name=name: seen.update({name: (before[0], after)}))
        for name in names
    ]
    with torch.no_grad():
        model(inputs)
    for handle in handles:
        handle.remove()
    return [seen[name] for name in names]


@pairwise(name=NETWORKS, kind=ACTIVATIONS, bound=Bound)
def test_sampled_points_stay_inside(name: str, kind: str, bound: Bound) -> None:
    model, inputs = network(name, kind), images()
    analysis = _analysis(model, inputs, bound)
    names = [each.name for each in analysis.activations]
    centers = _values_at_activations(model, inputs, names)
    logits = model(inputs)
    torch.testing.assert_close(analysis.logits, logits)
    lipschitz = lipschitz_to_logits(analysis, ExactNorms())
    for points in points_in_ball(inputs, EPSILON, 60):
        moved = _values_at_activations(model, points, names)
        for bounds, (before, after), (_, center) in zip(analysis.activations, moved, centers, strict=True):
            assert (before >= bounds.lower - 1e-9).all()
            assert (before <= bounds.upper + 1e-9).all()
            assert (after >= bounds.output_box()[0] - 1e-9).all()
            assert (after <= bounds.output_box()[1] + 1e-9).all()
            if bounds.varying is not None:
                assert ((after - center) * (1 - bounds.varying)).abs().max() == 0
        distance = (points - inputs).flatten(1).norm(dim=1)
        assert ((model(points) - logits).norm(dim=1) <= lipschitz * distance * (1 + 1e-9)).all()


@pairwise(name=NETWORKS, kind=ACTIVATIONS)
def test_theorem_1_and_its_extension(name: str, kind: str) -> None:
    """local <= global and tight <= local, layer by layer; boxes of tight lie inside those of local."""
    model, inputs = network(name, kind), images()
    by_bound = {bound: _analysis(model, inputs, bound) for bound in (Bound.GLOBAL, Bound.LOCAL, Bound.TIGHT)}
    for looser, tighter in ((Bound.GLOBAL, Bound.LOCAL), (Bound.LOCAL, Bound.TIGHT)):
        loose, tight = by_bound[looser], by_bound[tighter]
        assert (tight.lipschitz <= loose.lipschitz * (1 + 1e-12)).all()
        for first, second in zip(loose.activations, tight.activations, strict=True):
            assert (second.masked_norm <= first.masked_norm * (1 + 1e-12)).all()
            assert (second.lower >= first.lower - 1e-12).all()
            assert (second.upper <= first.upper + 1e-12).all()


@pairwise(name=NETWORKS, kind=ACTIVATIONS)
def test_smaller_epsilon_never_widens(name: str, kind: str) -> None:
    model, inputs = network(name, kind), images()
    wide, narrow = (_analysis(model, inputs, Bound.TIGHT, epsilon) for epsilon in (0.3, 0.1))
    for first, second in zip(wide.activations, narrow.activations, strict=True):
        assert (second.lower >= first.lower - 1e-12).all()
        assert (second.upper <= first.upper + 1e-12).all()


@pairwise(name=NETWORKS, kind=ACTIVATIONS, bound=Bound)
def test_epsilon_zero_is_the_forward_pass(name: str, kind: str, bound: Bound) -> None:
    model, inputs = network(name, kind), images()
    analysis = _analysis(model, inputs, bound, 0.0)
    names = [each.name for each in analysis.activations]
    for bounds, (before, _) in zip(analysis.activations, _values_at_activations(model, inputs, names), strict=True):
        # Squared row norms are kept above 1e-30, times a radius of 0.
        torch.testing.assert_close(bounds.lower, before, atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(bounds.upper, before, atol=1e-12, rtol=1e-12)


def test_clipping_the_input_keeps_clipped_points_inside_and_tightens() -> None:
    model, inputs = network("plain", "relu"), images()
    free, clipped = (_analysis(model, inputs, Bound.TIGHT, 0.8, clip) for clip in (False, True))
    assert (clipped.activations[0].upper <= free.activations[0].upper + 1e-12).all()
    assert (clipped.activations[0].upper < free.activations[0].upper - 1e-6).any()
    names = [each.name for each in clipped.activations]
    for points in points_in_ball(inputs, 0.8, 40):
        inside = points.clamp(0, 1)
        moved = _values_at_activations(model, inside, names)
        for bounds, (before, _) in zip(clipped.activations, moved, strict=True):
            assert (before >= bounds.lower - 1e-9).all()
            assert (before <= bounds.upper + 1e-9).all()


def test_tight_masks_rows_of_decided_pairs() -> None:
    """With a >= b + 2 everywhere, a clipped and b not: only the row of b can move the output."""
    layer = nn.Linear(2, 2).double()
    layer.weight.data = torch.diag(torch.tensor([5.0, 1.0], dtype=torch.float64))
    layer.bias.data = torch.tensor([3.0, 0.0], dtype=torch.float64)
    model = nn.Sequential(layer, ClippedMaxMin((2,), max=1.0, min=-10.0).double(), nn.Linear(2, 2).double())
    inputs = torch.zeros(1, 2, dtype=torch.float64)
    assert _analysis(model, inputs, Bound.LOCAL, 0.1).lipschitz.item() == pytest.approx(5.0)
    assert _analysis(model, inputs, Bound.TIGHT, 0.1).lipschitz.item() == pytest.approx(1.0)


def _nan_region() -> Analysis:
    model, inputs = network("plain", "clipped_relu"), images()
    model[0].bias.data[0] = torch.nan
    return _analysis(model, inputs, Bound.LOCAL)


def test_nan_counts_as_varying() -> None:
    varying = _nan_region().activations[0].varying
    assert varying is not None
    assert (varying[:, 0] == 1).all()


def test_parametrizations_that_keep_forward_are_followed() -> None:
    torch.manual_seed(0)
    parametrized = nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2).double()).eval()
    model = nn.Sequential(nn.Linear(2, 2).double(), nn.ReLU(), parametrized)
    analysis = _analysis(model, torch.rand(1, 2, dtype=torch.float64), Bound.GLOBAL)
    expected = torch.linalg.matrix_norm(model[0].weight, 2)
    torch.testing.assert_close(analysis.lipschitz[0], expected)


def test_linear_residual_block_needs_no_special_case() -> None:
    """x + A x has the norm of I + A, not 1 + the norm of A."""
    torch.manual_seed(0)
    linear = nn.Linear(6, 6, bias=False).double()
    linear.weight.data = -0.5 * torch.eye(6, dtype=torch.float64)
    model = nn.Sequential(Residual(linear), ClippedReLU((6,), 100.0).double(), nn.Linear(6, 2).double())
    analysis = _analysis(model, torch.rand(2, 6, dtype=torch.float64), Bound.GLOBAL)
    torch.testing.assert_close(analysis.lipschitz, torch.tensor([0.5], dtype=torch.float64))


@pytest.mark.parametrize("threshold", [0.0, -0.5])
def test_a_unit_without_range_is_constant(threshold: float) -> None:
    layer = ClippedReLU((2,), 1.0).double()
    layer.threshold.data = torch.tensor([[threshold, 1.0]], dtype=torch.float64)
    model = nn.Sequential(layer, nn.Linear(2, 2).double())
    analysis = _analysis(model, torch.zeros(1, 2, dtype=torch.float64), Bound.LOCAL, epsilon=0.3)
    varying = analysis.activations[0].varying
    assert varying is not None
    assert varying.tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize(
    ("center", "relu", "clipped"),
    [(-0.75, 0, 0), (-0.5, 0, 0), (-0.25, 1, 1), (0.5, 1, 1), (1.25, 1, 1), (1.5, 1, 0), (2.0, 1, 0)],
)
def test_an_interval_that_only_touches_a_kink_is_constant(center: float, relu: int, clipped: int) -> None:
    """Intervals [center - 1/2, center + 1/2], exact in binary, around the kinks at 0 and 1."""
    inputs = torch.tensor([[center]], dtype=torch.float64)
    for layer, expected in ((nn.ReLU(), relu), (ClippedReLU((1,), 1.0).double(), clipped)):
        model = nn.Sequential(layer, nn.Linear(1, 2).double())
        varying = _analysis(model, inputs, Bound.LOCAL, epsilon=0.5).activations[0].varying
        assert varying is not None
        assert varying.item() == expected, layer


@pytest.mark.parametrize("elementwise", [True, False])
def test_balls_before_a_gentle_activation_hold_its_inputs(elementwise: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it tells slopes over a box but not that it is elementwise: these weigh outputs, not inputs."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.PReLU(init=0.1), nn.Linear(4, 3)).double().eval()
    with torch.no_grad():
        model[0].bias.fill_(-9)
    if not elementwise:
        monkeypatch.setattr(Bend, "slopes", None)
    arithmetic = Arithmetic.of(torch.float64, torch.float64)
    analysis = analyze(model, torch.rand(3, 4).double(), 0.5, "tight", UpperNorms(), arithmetic=arithmetic)
    ball = analysis.activations[0].ball
    assert ball is not None
    assert bool((ball.radius >= 0.5 * torch.linalg.matrix_norm(model[0].weight, 2)).all())
