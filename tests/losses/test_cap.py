"""CAP against linear programs, backward passes and sampled points; random projections against exact norms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipcert.bounds import Bound, UnsupportedLayerError
from lipcert.crown import Ball, Interval, Rows, State, dual_boxes, split_activations, substitute
from lipcert.graph import Box, Graph, compile_graph
from lipcert.losses import CAP, Setting, Sparsity, cap_logits
from tests.crown.relaxed import Program, least_in_ball, relax, tiny
from tests.networks import images, network
from tests.oracles import ExactNorms, points_in_ball

EPSILON = 0.15
CENTER = torch.tensor([[0.3, 0.6, 0.5]], dtype=torch.float64)


def _ball(inputs: Tensor, epsilon: float = EPSILON) -> Ball:
    return Ball(inputs, torch.full((len(inputs),), epsilon, dtype=inputs.dtype))


def _network(model: nn.Module, inputs: Tensor) -> Graph:
    return split_activations(compile_graph(model, inputs.shape[1:]))


def _by_backward_passes(model: nn.Module, ball: Ball) -> dict[int, Box]:
    """Return the same boxes neuron by neuron, by backward passes with parallel lines."""
    network, boxes = _network(model, ball.images), {}
    for bend in network.activations:
        size, count = int(np.prod(bend.shape)), len(ball.images)
        units = torch.eye(size, dtype=ball.images.dtype).view(size, *bend.shape)
        units = units.repeat(count, *(1 for _ in bend.shape))
        image = torch.arange(count).repeat_interleave(size)
        state = State(boxes, otherwise=Interval.parallel)
        ends = [
            ball.least(substitute(network, Rows.of(sign * units, image), state, bend.sources[0])).view(
                count, *bend.shape
            )
            for sign in (1, -1)
        ]
        boxes[bend.index] = (ends[0], -ends[1])
    return boxes


@pytest.mark.parametrize("name", ["plain", "pooled", "residual"])
def test_boxes_are_those_of_backward_passes(name: str) -> None:
    model, inputs = network(name, "relu", scale=1.2).requires_grad_(False), images(2)
    ball = _ball(inputs)
    found, expected = dual_boxes(_network(model, inputs), ball), _by_backward_passes(model, ball)
    for first, second in zip(found.values(), expected.values(), strict=True):
        torch.testing.assert_close(first, second)


def test_boxes_hold_what_the_network_computes() -> None:
    model, inputs = network("residual", "relu", scale=1.2).requires_grad_(False), images(2)
    steps = _network(model, inputs)
    boxes = dual_boxes(steps, _ball(inputs))
    met: dict[str, list[Tensor]] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.ReLU):
            layer.register_forward_hook(lambda _, given, __, key=name: met.setdefault(key, []).append(given[0]))
    for point in points_in_ball(inputs, EPSILON, 200):
        model(point)
    assert len(met) == len(boxes)
    for bend in steps.activations:
        lower, upper = boxes[bend.index]
        for values in met[bend.name]:
            assert (lower - 1e-9 <= values).all()
            assert (values <= upper + 1e-9).all()


def _dead_patches() -> tuple[nn.Module, Tensor]:
    """Return a network some of whose later neurons are constant and positive: black pixels, negative biases."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 4, 3, 1, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 1, 1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(256, 8), nn.ReLU(), nn.Linear(8, 3)),
    ).double()
    inputs = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    inputs[..., 2:, 5:] = torch.rand(6, 3, dtype=torch.float64)
    with torch.no_grad():
        model[0].bias.fill_(-0.3)
        model[2].bias.fill_(0.2)
    return model.requires_grad_(False), inputs


@pytest.mark.parametrize("epsilon", [0.1, 0.3])
def test_constant_positive_neurons_keep_their_value(epsilon: float) -> None:
    model, inputs = _dead_patches()
    boxes = list(dual_boxes(_network(model, inputs), _ball(inputs, epsilon)).values())
    assert any(((lower == upper) & (lower > 0)).any() for lower, upper in boxes)
    worst = cap_logits(model, inputs, torch.tensor([1]), epsilon)
    for point in points_in_ball(inputs, epsilon, 200):
        reached = model(point)
        assert (reached - reached[:, 1:2] <= worst + 1e-9).all()
        before = [model[:depth](point) for depth in (1, 3, 6)]
        for (lower, upper), values in zip(boxes, before, strict=True):
            assert (lower - 1e-9 <= values).all()
            assert (values <= upper + 1e-9).all()


@pytest.mark.parametrize("seed", range(3))
def test_worst_logits_against_the_linear_program(seed: int) -> None:
    """Never tighter than the relaxation's optimum over the same boxes, nor far from it."""
    model, epsilon, label = tiny("relu", seed), 0.3, 0
    worst = cap_logits(model, CENTER, torch.tensor([label]), epsilon)[0]
    boxes = dual_boxes(_network(model, CENTER), _ball(CENTER, epsilon))
    center = CENTER[0].numpy()
    for j in (1, 2):
        program = Program()
        variables = program.variables(3, -1, 2)
        program.boxes = [tuple(end[0].numpy() for end in box) for box in boxes.values()]  # type: ignore[misc]
        logits, _ = relax(model, program, variables, (center - epsilon, center + epsilon))
        least = least_in_ball(program, logits[label] - logits[j], center, epsilon)
        assert -worst[j].item() <= least + 1e-6
        assert -worst[j].item() >= least - 2.0 * (1 + abs(least))
    assert worst[label] == 0


def test_no_point_of_the_ball_is_worse() -> None:
    model, inputs = network("plain", "relu", scale=1.2).requires_grad_(False), images(3)
    labels = torch.tensor([0, 3, 4])
    worst = cap_logits(model, inputs, labels, EPSILON)
    small = cap_logits(model, inputs, labels, 1e-9)
    logits = model(inputs)
    torch.testing.assert_close(small, logits - logits.gather(1, labels[:, None]), atol=1e-6, rtol=0)
    for point in points_in_ball(inputs, EPSILON, 200):
        reached = model(point)
        assert (reached - reached.gather(1, labels[:, None]) <= worst + 1e-9).all()


def test_projections_estimate_exact_boxes() -> None:
    torch.manual_seed(0)
    model, inputs = network("plain", "relu", scale=1.2).requires_grad_(False), images(2)
    steps = _network(model, inputs)
    exact = dual_boxes(steps, _ball(inputs))
    errors = []
    for count in (10, 70):
        found = dual_boxes(steps, _ball(inputs), count)
        widths = [
            ((upper - lower) / (exact_upper - exact_lower) - 1).abs().mean().item()
            for (lower, upper), (exact_lower, exact_upper) in zip(found.values(), exact.values(), strict=True)
        ]
        errors.append(widths)
    assert max(errors[0]) > max(errors[1]) > 0
    assert max(errors[1]) < 0.2
    assert dual_boxes(steps, _ball(inputs), 1000).keys() == exact.keys()
    for first, second in zip(dual_boxes(steps, _ball(inputs), 1000).values(), exact.values(), strict=True):
        torch.testing.assert_close(first, second)


class TestMethod:
    setting = Setting(EPSILON, 1.0, Bound.LOCAL, ExactNorms(), Sparsity())
    labels = torch.tensor([0, 3, 4])

    @pytest.mark.parametrize("projections", [0, 5])
    def test_the_loss_is_that_of_worst_logits_and_reaches_every_parameter(self, projections: int) -> None:
        model, inputs = network("plain", "relu"), images()
        torch.manual_seed(1)
        objective = CAP(projections)(model, inputs, self.labels, self.setting)
        torch.manual_seed(1)
        worst = cap_logits(model, inputs, self.labels, EPSILON, projections)
        torch.testing.assert_close(objective.loss, F.cross_entropy(worst, self.labels))
        objective.loss.backward()
        for name, parameter in model.named_parameters():
            if name != "7.bias":
                assert parameter.grad is not None, name
                assert parameter.grad.isfinite().all(), name
                assert parameter.grad.abs().sum() > 0, name

    def test_gradient_of_exact_norms(self) -> None:
        model, inputs = tiny("relu", 1), CENTER
        weight = model[0].weight.detach().clone().requires_grad_(True)

        def loss(values: Tensor) -> Tensor:
            copy = tiny("relu", 1)
            copy[0].weight = nn.Parameter(values, requires_grad=False)
            del copy[0]._parameters["weight"]
            copy[0].weight = values
            return cap_logits(copy, inputs, torch.tensor([0]), 0.3).sum()

        assert torch.autograd.gradcheck(loss, (weight,), eps=1e-7, atol=1e-5)

    def test_warm_up_is_the_clean_loss(self) -> None:
        model, inputs = network("plain", "relu"), images()
        warm = Setting(0.0, 0.0, Bound.LOCAL, ExactNorms(), Sparsity())
        loss = CAP()(model, inputs, self.labels, warm).loss
        torch.testing.assert_close(loss, F.cross_entropy(model(inputs), self.labels))

    @pytest.mark.parametrize("kind", ["clipped_relu", "clipped_maxmin"])
    def test_clipped_activations_are_refused(self, kind: str) -> None:
        with pytest.raises(UnsupportedLayerError, match="without thresholds"):
            CAP()(network("plain", kind), images(), self.labels, self.setting)

    def test_maxmin_is_refused(self) -> None:
        with pytest.raises(UnsupportedLayerError, match=r"'1': .*not of MaxMin"):
            CAP()(network("plain", "maxmin"), images(), self.labels, self.setting)

    @pytest.mark.parametrize("projections", [-1, 2.5, True])
    def test_bad_projections_are_refused(self, projections: object) -> None:
        with pytest.raises(ValueError, match=r"method\.projections"):
            CAP(projections)  # type: ignore[arg-type]
