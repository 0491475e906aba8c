"""The loop transformation (`liplt`, `global_liplt`): sound, never looser than products, the formula it says it is."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lipcert.bounds import analyze, lipschitz_to_logits, worst_increase
from lipcert.nn import ClippedMaxMin, ClippedReLU, MaxMin, Residual
from tests.networks import images, network
from tests.oracles import ExactNorms, points_in_ball
from tests.pairwise import pairwise as covering

KINDS = ("relu", "clipped_relu", "maxmin", "clipped_maxmin")
SLACK = 1e-9
Array = NDArray[np.float64]


def _dense(weights: list[list[list[float]]], biases: list[list[float]] | None = None) -> nn.Sequential:
    """Return Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for index, weight in enumerate(weights):
        layer = nn.Linear(len(weight[0]), len(weight)).double()
        layer.weight.data = torch.tensor(weight, dtype=torch.float64)
        layer.bias.data = torch.zeros(len(weight)).double() if biases is None else torch.tensor(biases[index]).double()
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).requires_grad_(False)


def _activation(width: int, kind: int) -> nn.Module:
    """Return any of the activations, with thresholds that differ a neuron, some 0 or below."""
    if kind == 0:
        return nn.ReLU()
    if kind == 1:
        return MaxMin()
    if kind == 2:
        clipped = ClippedReLU((width,))
        clipped.threshold.data = torch.randn(1, width).clamp_min(-0.2) * (torch.rand(1, width) < 0.8)
        return clipped
    pairs = ClippedMaxMin((width,))
    pairs.max.data, pairs.min.data = torch.randn(1, width // 2), torch.randn(1, width // 2)
    return pairs


def _mixed(seed: int) -> nn.Sequential:
    """Return a network of all activations: nested residual blocks, activations in a row, a layer used twice."""
    torch.manual_seed(seed)
    drawn = random.Random(seed)

    def act() -> nn.Module:
        return _activation(4, drawn.randrange(4))

    shared = nn.Linear(4, 4)
    inner = Residual(nn.Sequential(nn.Linear(4, 4), act(), nn.Linear(4, 4)), nn.Sequential(nn.Linear(4, 4), act()))
    model = nn.Sequential(
        act(),
        *(shared, nn.ReLU(), act(), shared, act()),
        Residual(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), inner, act())),
        *(nn.Linear(4, 4), act(), nn.Linear(4, 3)),
    )
    for parameter in model.parameters():
        if parameter.dim() == 2 and parameter.shape[0] > 1:
            parameter.data *= 1.5
    return model.double().eval().requires_grad_(False)


@covering(name=["plain", "pooled", "residual"], kind=KINDS, bounds=[("tight", "liplt"), ("global", "global_liplt")])
def test_never_looser_than_products_of_norms(name: str, kind: str, bounds: tuple[str, str]) -> None:
    product, loop = bounds
    model, inputs, norms = network(name, kind, scale=1.2), images(2), ExactNorms()
    labels = model(inputs).argmax(dim=1)
    with torch.no_grad():
        for epsilon in (0.01, 0.3):
            tight, liplt = (analyze(model, inputs, epsilon, bound, norms) for bound in (product, loop))
            assert (liplt.lipschitz <= tight.lipschitz * (1 + SLACK)).all()
            for box in (True, False):
                limit = worst_increase(tight, labels, box) * (1 + SLACK) + SLACK
                assert (worst_increase(liplt, labels, box) <= limit).all()
            for ours, other in zip(liplt.activations, tight.activations, strict=True):
                assert (ours.lower >= other.lower - SLACK).all()
                assert (ours.upper <= other.upper + SLACK).all()


def _ascended(model: nn.Module, inputs: Tensor, labels: Tensor, target: int, epsilon: float) -> Tensor:
    """Return points of the ball at which the target's logit was raised against the label's."""
    points = inputs + 0.3 * epsilon * nn.functional.normalize(torch.ones_like(inputs), dim=1)
    for _ in range(10):
        points = points.detach().requires_grad_()
        logits = model(points)
        gain = (logits[:, target] - logits.gather(1, labels[:, None])[:, 0]).sum()
        (gradient,) = torch.autograd.grad(gain, points)
        offset = points.detach() + epsilon * nn.functional.normalize(gradient, dim=1) / 2 - inputs
        points = inputs + offset * (epsilon / offset.norm(dim=1, keepdim=True).clamp_min(epsilon))
    return points.detach()


@covering(bound=["liplt", "global_liplt"], epsilon=[0.03, 0.5], seed=range(12))
def test_points_of_the_ball_stay_inside(seed: int, epsilon: float, bound: str) -> None:
    """Boxes, margins with and without their box, and Lipschitz constants, on networks of every kind at once."""
    model, norms = _mixed(seed), ExactNorms()
    inputs = torch.rand(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        logits = model(inputs)
        labels = logits.argmax(dim=1)
        analysis = analyze(model, inputs, epsilon, bound, norms, output_box=True)
        gains = [worst_increase(analysis, labels, box=box) for box in (True, False)]
        lipschitz = lipschitz_to_logits(analysis, norms)
        lower, upper = analysis.region.box()
    attacked = torch.stack([_ascended(model, inputs, labels, target, epsilon) for target in range(3)])
    for points in torch.cat((points_in_ball(inputs, epsilon, 60, seed), attacked)):
        moved = model(points) - logits
        gain = moved - moved.gather(1, labels[:, None])
        assert all((gain <= most + SLACK).all() for most in gains)
        assert (moved.norm(dim=1) <= lipschitz * (points - inputs).norm(dim=1) * (1 + SLACK) + SLACK).all()
        assert ((lower - SLACK <= logits + moved) & (logits + moved <= upper + SLACK)).all()


def test_slopes_that_cancel_halve_the_bound() -> None:
    """relu(x) - relu(x): the linear halves cancel, the remainders are half as long as what `tight` sees."""
    model, norms = _dense([[[1.0], [1.0]], [[1.0, -1.0]]]), ExactNorms()
    with torch.no_grad():
        constants = {
            bound: lipschitz_to_logits(
                analyze(model, torch.zeros(1, 1, dtype=torch.float64), 0.1, bound, norms), norms
            ).item()
            for bound in ("tight", "liplt", "global_liplt")
        }
    assert constants["tight"] == pytest.approx(2.0)
    assert constants["liplt"] == pytest.approx(1.0)
    assert constants["global_liplt"] == pytest.approx(1.0)


def _norm(matrix: Array) -> float:
    return float(np.linalg.norm(matrix, 2))


def _reference(weights: list[Array], biases: list[Array], image: Array, epsilon: float) -> tuple[float, float]:
    """Return both bounds on the Lipschitz constant of a ReLU network to its logits, by dense matrices alone.

    ‖z' - z‖ <= ‖M‖ ε + Σ ‖K_j‖ r_j, M the product of weights and slopes, K_j that behind activation j.
    """
    center, lower, upper, radius = image, image - epsilon, image + epsilon, 1.0
    varying = np.ones(len(image))
    from_image, from_remainders = np.eye(len(image)), list[tuple[Array, float, Array]]()
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        middle, half = weight @ (upper + lower) / 2 + bias, np.abs(weight) @ (upper - lower) / 2
        center = weight @ center + bias
        ball = np.sqrt(weight**2 @ varying) * radius * epsilon
        first = len(weight[0]) == len(image) and not from_remainders
        lower = center - ball if first else np.maximum(middle - half, center - ball)
        upper = center + ball if first else np.minimum(middle + half, center + ball)
        on, linear = (upper > 0).astype(float), (lower >= 0).astype(float)
        unstable = on * (1 - linear)
        from_image = weight @ from_image
        from_remainders = [(weight @ behind, size, mask) for behind, size, mask in from_remainders]

        def length(
            rows: Array,
            image_map: Array = from_image,
            remainder_maps: list[tuple[Array, float, Array]] = from_remainders,
        ) -> float:
            behind = sum(_norm(rows[:, None] * each * mask) * size for each, size, mask in remainder_maps)
            return _norm(rows[:, None] * image_map) + behind

        product = radius * _norm(on[:, None] * weight * varying)
        remainder = min(product, length(unstable)) / 2
        radius = min(product, length(on))
        slopes = (linear + unstable / 2)[:, None]
        from_image = slopes * from_image
        from_remainders = [(slopes * each, size, mask) for each, size, mask in from_remainders]
        from_remainders.append((np.diag(np.ones(len(on))), remainder, unstable))
        center, lower, upper, varying = (np.maximum(each, 0) for each in (center, lower, upper, on))
    last = weights[-1]
    remainders = sum(_norm(last @ each * mask) * size for each, size, mask in from_remainders)
    return radius, min(radius * _norm(last * varying), _norm(last @ from_image) + remainders)


def _global_reference(weights: list[Array]) -> tuple[float, float]:
    """Return both constants of a ReLU network by dense matrices: every slope 1/2, every remainder half as long."""
    radius, from_image = 1.0, np.eye(weights[0].shape[1])
    from_remainders: list[tuple[Array, float]] = []
    for index, weight in enumerate(weights):
        from_image = weight @ from_image
        from_remainders = [(weight @ behind, size) for behind, size in from_remainders]
        before = radius
        radius = min(before * _norm(weight), _norm(from_image) + sum(_norm(w) * size for w, size in from_remainders))
        if index == len(weights) - 1:
            return before, radius
        from_image, from_remainders = from_image / 2, [(behind / 2, size) for behind, size in from_remainders]
        from_remainders.append((np.eye(len(weight)), radius / 2))
    raise AssertionError


@pytest.mark.parametrize("seed", range(6))
def test_the_global_one_equals_a_dense_computation(seed: int) -> None:
    generator = np.random.default_rng(seed)
    weights = [generator.standard_normal((after, before)) for before, after in pairwise((5, 9, 8, 7, 3))]
    model, norms, inputs = _dense([each.tolist() for each in weights]), ExactNorms(), torch.rand(2, 5).double()
    with torch.no_grad():
        analysis = analyze(model, inputs, 0.1, "global_liplt", norms)
        to_logits = lipschitz_to_logits(analysis, norms)
        product = analyze(model, inputs, 0.1, "global", norms).lipschitz
    expected, expected_to_logits = _global_reference(weights)
    assert analysis.lipschitz.tolist() == pytest.approx([expected])
    assert to_logits.tolist() == pytest.approx([expected_to_logits])
    assert expected < 0.95 * product.item()
    assert analysis.global_lipschitz.item() == pytest.approx(product.item())


@pytest.mark.parametrize("seed", range(6))
def test_equals_a_dense_computation_of_the_formula(seed: int) -> None:
    generator = np.random.default_rng(seed)
    widths = (5, 9, 8, 7, 3)
    weights = [generator.standard_normal((after, before)) / 2 for before, after in pairwise(widths)]
    biases = [generator.standard_normal(after) / 2 for after in widths[1:]]
    image, epsilon, norms = generator.random(5), 0.1, ExactNorms()
    model = _dense([each.tolist() for each in weights], [each.tolist() for each in biases])
    with torch.no_grad():
        analysis = analyze(model, torch.from_numpy(image)[None], epsilon, "liplt", norms)
        to_logits = lipschitz_to_logits(analysis, norms)
    expected, expected_to_logits = _reference(weights, biases, image, epsilon)
    assert analysis.lipschitz.item() == pytest.approx(expected, rel=1e-9)
    assert to_logits.item() == pytest.approx(expected_to_logits, rel=1e-9)
