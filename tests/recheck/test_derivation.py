"""Derived bounds against sampled points, dense matrices and each other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lipcert.recheck.activations import masks, output_range, remainder_range
from lipcert.recheck.derivation import Derivation
from lipcert.recheck.margins import margins, worst
from lipcert.recheck.norms import Norms
from lipcert.recheck.program import ActivationStep, Program, compile_program, linear_map
from tests.networks import IMAGE, images, network
from tests.pairwise import pairwise

KINDS = ("relu", "clipped_relu", "maxmin", "clipped_maxmin")
NAMES = ("plain", "pooled", "residual")


def _derive(model: nn.Module, epsilon: float, clip: bool = False, decomposed: bool = True) -> Derivation:
    return Derivation(compile_program(model, IMAGE), images()[0], epsilon, clip, decomposed, Norms())


def _points(image: Tensor, epsilon: float, count: int = 400) -> Tensor:
    """Random points of a ball: a third anywhere, a third on the sphere, a third close to the image."""
    generator = torch.Generator().manual_seed(5)
    directions = torch.randn(count, *image.shape, generator=generator, dtype=torch.float64)
    lengths = torch.rand(count, 1, 1, 1, generator=generator, dtype=torch.float64)
    lengths[::3], lengths[1::3] = 1, lengths[1::3] * 0.1
    return image + epsilon * lengths * directions / directions.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def _ascended(model: nn.Module, image: Tensor, epsilon: float, label: int, other: int) -> Tensor:
    """Return a point of the sphere at which z_other - z_label is large."""
    point = image[None].clone()
    for _ in range(30):
        point.requires_grad_()
        logits = model(point)
        (gradient,) = torch.autograd.grad(logits[0, other] - logits[0, label], point)
        change = point.detach() - image + epsilon / 3 * gradient / gradient.norm().clamp(min=1e-12)
        point = image + change * min(1.0, epsilon / float(change.norm()))
    return point.detach()


@pairwise(name=NAMES, kind=KINDS, epsilon_and_impulses=[(0.05, 400), (0.6, 400), (0.6, 0)])
def test_everything_holds_at_points_of_the_ball(name: str, kind: str, epsilon_and_impulses: tuple[float, int]) -> None:
    epsilon, impulses = epsilon_and_impulses
    model = network(name, kind)
    program = compile_program(model, IMAGE)
    derived = Derivation(program, images()[0], epsilon, False, True, Norms(impulses=impulses))
    label = int(derived.logits.center.argmax())
    ascended = [_ascended(model, images()[0], epsilon, label, other) for other in range(4) if other != label]
    points = torch.cat((_points(images()[0], epsilon), *ascended))
    values = derived.program(points)
    torch.testing.assert_close(values[derived.program.output], model(points).detach(), rtol=1e-12, atol=1e-12)
    for value, reach in zip(values, derived.reaches, strict=True):
        assert bool(((value >= reach.lower) & (value <= reach.upper)).all())
    for step in derived.program.steps:
        if isinstance(step, ActivationStep):
            source = derived.sources[step.target]
            change = values[step.target] - derived.reaches[step.target].center
            entered = values[step.source] - derived.reaches[step.source].center
            remainder = change - derived.slopes.get(step.target, torch.zeros(())) * entered
            for part, constant, mask, (lower, upper) in (
                (change, source.tight, source.varying, source.change),
                (remainder, source.decomposed, source.unstable, source.remainder),
            ):
                assert bool((part.flatten(1).norm(dim=1) <= epsilon * constant * (1 + 1e-9)).all())
                assert bool((part * (1 - mask) == 0).all()) or float((part * (1 - mask)).abs().max()) < 1e-12
                assert bool(((part >= lower) & (part <= upper)).all())
    logits = values[derived.program.output]
    assert bool((logits - logits[:, [label]] <= worst(derived, label)).all())


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_hold_with_pixels_clipped(kind: str) -> None:
    model = network("plain", kind)
    image = images()[0]
    free, clipped = _derive(model, 0.8), _derive(model, 0.8, clip=True)
    points = _points(image, 0.8)
    points = points.clamp(0, 1)
    for value, reach, looser in zip(clipped.program(points), clipped.reaches, free.reaches, strict=True):
        assert bool(((value >= reach.lower) & (value <= reach.upper)).all())
        assert bool((reach.lower >= looser.lower - 1e-12).all())
    assert margins(clipped, 0).real >= margins(free, 0).real
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        Derivation(clipped.program, image + 1, 0.1, True, False, Norms())


def _written_out(program: Program, start: int, end: int) -> Tensor:
    there = linear_map(program, start, end, {})
    assert there is not None
    size = torch.Size(program.shapes[start]).numel()
    return there.apply(torch.eye(size, dtype=torch.float64).view(size, *program.shapes[start])).flatten(1).T


@pytest.mark.parametrize("kind", ["relu", "clipped_relu"])
def test_constants_of_a_plain_network_are_products_of_masked_norms(kind: str) -> None:
    derived = _derive(network("plain", kind), 0.1, decomposed=False)
    expected, source = 1.0, 0
    for step in derived.program.steps:
        if isinstance(step, ActivationStep):
            matrix = _written_out(derived.program, source, step.source)
            rows, columns = derived.sources[step.target].varying, derived.sources[source].varying
            expected *= float(torch.linalg.matrix_norm(rows.view(-1, 1) * matrix * columns.view(1, -1), 2))
            assert derived.sources[step.target].tight == pytest.approx(expected, rel=1e-7)
            source = step.target


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_decomposed_family_never_loosens_and_sometimes_tightens(name: str, kind: str) -> None:
    model = network(name, kind)
    tight, both = _derive(model, 0.3, decomposed=False), _derive(model, 0.3)
    for label in range(2):
        assert margins(both, label).real >= margins(tight, label).real - 1e-9
    if kind == "relu":
        assert margins(both, 0).real > margins(tight, 0).real + 1e-6


def test_a_linear_network_has_its_exact_margin() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 5)).double().eval()
    derived = _derive(model, 0.3)
    matrix = model[1].weight.detach()
    logits = model(images()[:1])[0].detach()
    exact = min(float(logits[0] - logits[j] - 0.3 * (matrix[0] - matrix[j]).norm()) for j in range(1, 5))
    assert margins(derived, 0).real == pytest.approx(exact, abs=1e-8)


def test_stable_neurons_make_the_decomposed_bound_exact() -> None:
    """Where every neuron is linear, nothing remains and the network is one matrix."""
    torch.manual_seed(0)
    first, second, last = nn.Linear(72, 20), nn.Linear(20, 20), nn.Linear(20, 3)
    nn.init.constant_(first.bias, 50.0)
    nn.init.constant_(second.bias, 100.0)
    model = nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU(), last).double().eval()
    derived = _derive(model, 0.2)
    with torch.no_grad():
        matrix = last.weight @ second.weight @ first.weight
        logits = model(images()[:1])[0]
        exact = min(float(logits[0] - logits[j] - 0.2 * (matrix[0] - matrix[j]).norm()) for j in (1, 2))
    assert margins(derived, 0).real == pytest.approx(exact, abs=1e-6)
    assert margins(_derive(model, 0.2, decomposed=False), 0).real < exact - 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_masks_and_ranges_against_a_fine_grid(kind: str) -> None:
    """Each pair of inputs runs over a grid of its box; what is called constant must be, extremes must be met."""
    program = compile_program(network("plain", kind), IMAGE)
    activation = next(step.activation for step in program.steps if isinstance(step, ActivationStep))
    generator = torch.Generator().manual_seed(3)
    shape = (1, 4, 6, 6)
    lower = torch.randn(shape, generator=generator, dtype=torch.float64) * 0.4
    upper = lower + torch.rand(shape, generator=generator, dtype=torch.float64) * 0.5
    center = lower + torch.rand(shape, generator=generator, dtype=torch.float64) * (upper - lower)
    mask = masks(activation, lower, upper)
    axis = torch.linspace(0, 1, 41, dtype=torch.float64)
    first, second = torch.cartesian_prod(axis, axis).unbind(1)
    mix = torch.cat((first.view(-1, 1, 1, 1).expand(-1, 2, 6, 6), second.view(-1, 1, 1, 1).expand(-1, 2, 6, 6)), dim=1)
    points = lower + mix * (upper - lower)
    outputs = activation(points)
    moved = outputs.amax(dim=0) - outputs.amin(dim=0)
    assert bool((moved[mask.varying[0] == 0] == 0).all())
    assert float(mask.varying.mean()) > 0
    kept = torch.where(mask.needed == 1, points, center)
    assert bool((activation(kept) == outputs)[(mask.varying == 1).expand_as(outputs)].all())
    slope = mask.slope if mask.slope is not None else torch.zeros_like(center)
    remainder = outputs - activation(center) - slope * (points - center)
    for values, (low, high) in (
        (outputs - activation(center), output_range(activation, lower, upper, center)),
        (remainder, remainder_range(activation, mask.slope, lower, upper, center)),
    ):
        torch.testing.assert_close(values.amin(dim=0)[None], low, rtol=0, atol=0.013)
        torch.testing.assert_close(values.amax(dim=0)[None], high, rtol=0, atol=0.013)
        assert bool((values >= low - 1e-12).all())
        assert bool((values <= high + 1e-12).all())


def test_unsupported_networks_are_refused_by_name() -> None:
    hooked = nn.Sequential(nn.Flatten(), nn.Linear(72, 3))
    hooked[1].register_forward_hook(lambda *_: None)
    flawed = nn.Sequential(nn.Flatten(), nn.Linear(72, 3))
    nn.init.constant_(flawed[1].bias, float("nan"))
    for model, message in (
        (nn.Sequential(nn.Flatten(), nn.Linear(72, 3), nn.Softsign()), "'2'"),
        (hooked, "'1'"),
        (nn.Sequential(nn.GroupNorm(1, 2), nn.Flatten()), "'0'"),
        (nn.Sequential(nn.Flatten(), nn.Linear(72, 3).half()), "float16"),
        (flawed, "finite"),
        (nn.Sequential(nn.Conv2d(2, 2, 3)), "logits"),
    ):
        with pytest.raises((NotImplementedError, ValueError), match=message):
            compile_program(model.eval(), IMAGE)
    with pytest.raises(NotImplementedError, match="training mode"):
        compile_program(nn.Sequential(nn.Flatten(), nn.Linear(72, 3)).train(), IMAGE)


def test_a_layer_used_twice_is_applied_twice() -> None:
    torch.manual_seed(0)
    again = nn.Linear(72, 72)
    model = nn.Sequential(nn.Flatten(), again, nn.ReLU(), again, nn.Linear(72, 3)).double().eval()
    derived = _derive(model, 0.1)
    torch.testing.assert_close(derived.logits.center, model(images()[:1]).detach())
