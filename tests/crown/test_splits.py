"""Branch and bound: parts cover their ball, each part's bound holds in it, and splits prove more."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import pytest
import torch
from torch import Tensor, nn

from lipcert.bounds import Arithmetic, analyze
from lipcert.crown import (
    Ball,
    Effort,
    Rows,
    State,
    bounded,
    proved,
    proved_state,
    refined,
    split_activations,
    substitute,
)
from lipcert.crown.splits import Parts, _bounded, _sides, least_of_parts
from lipcert.graph import Activation, Add, Affine, Graph, PairSort, compile_graph
from lipcert.nn import ClippedReLU
from lipcert.nn.activations import split_pairs
from tests import networks
from tests.crown.few_steps import optimise_in_few_steps
from tests.oracles import ExactNorms, points_in_ball
from tests.pairwise import pairwise

KINDS = ("relu", "clipped_relu", "maxmin", "clipped_maxmin")
NAMES = ("plain", "pooled", "residual")


class Case:
    """Two images of a network with all rows z_0 - z_j, and what is known of them."""

    def __init__(self, model: nn.Module, inputs: Tensor, epsilon: float = 0.5) -> None:
        self.model, self.inputs = model.requires_grad_(False), inputs
        graph = compile_graph(self.model, self.inputs.shape[1:])
        arithmetic = Arithmetic.of(torch.float64, torch.float64)
        analysis = analyze(graph, self.inputs, epsilon, "tight", ExactNorms(), arithmetic=arithmetic)
        self.epsilon, self.graph = epsilon, split_activations(graph)
        ball = Ball(self.inputs, torch.full((2,), epsilon).double())
        state, self.ball = proved_state(self.graph, analysis.activations, ball)
        self.state: State = refined(self.graph, state, self.ball, 30)
        classes = analysis.logits.shape[1]
        self.image = torch.arange(2).repeat_interleave(classes - 1)
        units = torch.eye(classes).double()
        self.rows = Rows.of(units[:1] - units[torch.arange(1, classes).repeat(2)], self.image)

    @cached_property
    def whole(self) -> Tensor:
        """Bounds by free slopes, (R,)."""
        return self.ball.certain(bounded(self.graph, self.rows, self.state, self.ball, Effort(25)))


def _case(name: str, kind: str, epsilon: float = 0.5) -> Case:
    return Case(networks.network(name, kind, scale=1.2), networks.images(2), epsilon)


def _inputs_of_steps(graph: Graph, points: Tensor) -> dict[int, Tensor]:
    """Return the inputs of clamps and the differences of sorts at points (N, ...), and the logits by the last index."""
    operators, values, seen = graph.operators(), {0: points}, dict[int, Tensor]()
    for node in graph.nodes[1:]:
        before = [values[source] for source in node.sources]
        if isinstance(node, Affine):
            values[node.index] = operators[node.index].affine(*before)
        elif isinstance(node, Add):
            values[node.index] = before[0] + before[1]
        elif isinstance(node, Activation):
            first, second = split_pairs(before[0]) if isinstance(node.function, PairSort) else (before[0], 0)
            seen[node.index] = first - second
            values[node.index] = node.function.apply(*before)
    last = graph.nodes[-1].index
    return {**seen, last: values[last]}


def _reached(case: Case, parts: Parts, seen: list[dict[int, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return what rows are at points, (P, N), and which of these each part has, bool."""
    images = [seen[int(case.image[owner])] for owner in parts.owner]
    logits = torch.stack([each[case.graph.nodes[-1].index] for each in images])
    members = torch.ones(logits.shape[:2], dtype=torch.bool)
    for index, (lower, upper) in parts.state.boxes.items():
        inputs = torch.stack([each[index] for each in images])
        inside = (inputs >= lower.unsqueeze(1) - 1e-9) & (inputs <= upper.unsqueeze(1) + 1e-9)
        held = parts.state.held.get(index)  # inputs that nothing depends on may be taken elsewhere
        if held is not None and held.needed.shape == lower.shape:
            inside |= (held.needed == 0).unsqueeze(1)
        elif held is not None:
            first, second = split_pairs(held.needed > 0)
            inside |= ~(first & second).unsqueeze(1)
        members &= inside.flatten(2).all(dim=2)
    return (logits * parts.rows.coefficients.unsqueeze(1)).sum(dim=2), members


@pairwise(name=NAMES, kind=KINDS, epsilon=(0.2, 0.8))
def test_bounds_of_parts_hold_inside_them_and_parts_cover_the_ball(name: str, kind: str, epsilon: float) -> None:
    case = _case(name, kind, epsilon)
    parts = Parts.whole(case.graph, case.rows, case.state, case.ball)
    goal = torch.full((len(case.image),), torch.inf).double()
    points = points_in_ball(case.inputs, epsilon, 400)
    seen = [_inputs_of_steps(case.graph, points[:, image]) for image in range(2)]
    for depth in range(2):
        parts, value = _bounded(case.graph, parts, goal, 5, 0.1)
        margins, members = _reached(case, parts, seen)
        assert (value <= torch.where(members, margins, torch.inf).amin(dim=1)).all()
        if depth:
            covered = torch.zeros(len(goal), points.shape[0], dtype=torch.long).index_add(
                0, parts.owner, members.long()
            )
            assert (covered >= 1).all()
        sides = _sides(case.graph, parts)
        tried = len(sides.owner) // len(value) // 2
        pick = torch.randint(tried, (len(value),), generator=torch.Generator().manual_seed(depth))
        first = 2 * (torch.arange(len(value)) * tried + pick)
        parts = sides.of(torch.stack((first, first + 1), dim=1).flatten())


@pytest.mark.parametrize("kind", ["relu", "clipped_relu"])
@pytest.mark.parametrize("seed", range(8))
def test_parts_of_chains_of_single_neurons_hold_at_any_multiplier(kind: str, seed: int) -> None:
    """Nothing is lost between norms of single neurons: what leaves out the center shows."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for _ in range(3):
        layers += [nn.Linear(1, 1), nn.ReLU() if kind == "relu" else ClippedReLU((1,), 0.4)]
    model = nn.Sequential(*layers, nn.Linear(1, 2)).double().requires_grad_(False).eval()
    for layer in model[::2]:
        layer.weight.uniform_(-2, 2)
        layer.bias.uniform_(-0.5, 0.5)
    case = Case(model, torch.rand(2, 1).double(), 0.5)
    points = case.inputs + torch.linspace(-0.5, 0.5, 501).double()
    seen = [_inputs_of_steps(case.graph, points[image].unsqueeze(1)) for image in range(2)]
    parts = Parts.whole(case.graph, case.rows, case.state, case.ball)
    goal = torch.full((len(case.image),), torch.inf).double()
    for depth in range(3):
        parts, _ = _bounded(case.graph, parts, goal, 3, 0.1)
        margins, members = _reached(case, parts, seen)
        lowest = torch.where(members, margins, torch.inf).amin(dim=1)
        for size in (0.3, 3.0, 30.0):
            drawn = {key: size * torch.rand_like(each) for key, each in parts.state.multipliers.items()}
            found = substitute(case.graph, parts.rows, replace(parts.state, multipliers=drawn))
            assert (parts.ball.certain(found) <= lowest + 1e-9).all(), (depth, size)
        parts = _sides(case.graph, parts)


@pytest.fixture(name="few_steps")
def fixture_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    optimise_in_few_steps(monkeypatch)


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize(("name", "kind"), [("plain", "relu"), ("residual", "maxmin")])
def test_splits_prove_more_and_nothing_that_points_refute(name: str, kind: str) -> None:
    case = _case(name, kind)
    lowest = _lowest(case)
    rows = (lowest - case.whole).view(2, -1).argmax(dim=1) + torch.tensor([0, len(lowest) // 2])
    whole, lowest, chosen = case.whole[rows], lowest[rows], case.rows.of_rows(rows)
    goals = whole + 0.1 * (lowest - whole), lowest + 1e-6
    found, refuted = (
        torch.cat(
            [
                least_of_parts(case.graph, chosen.of_rows(row), case.state, case.ball, rounds, goal[row])
                for row in torch.arange(2).split(1)
            ]
        )
        for goal, rounds in zip(goals, (3, 1), strict=True)
    )
    assert (found > goals[0]).any()
    assert ((found > goals[0]) | (found == -torch.inf)).all()
    assert (found <= lowest).all()
    assert (refuted == -torch.inf).all()


def _lowest(case: Case) -> Tensor:
    """Return the least margins that descent meets, (R,)."""
    lowest = torch.full((len(case.image),), torch.inf).double()
    own = case.inputs[case.image]
    for start in points_in_ball(case.inputs, case.epsilon, 6):
        moved = start[case.image] - own
        for step in range(60):
            moved = moved.detach().requires_grad_(True)
            margins = (case.model(own + moved) * case.rows.coefficients).sum(dim=1)
            lowest = torch.minimum(lowest, margins.detach())
            (slope,) = torch.autograd.grad(margins.sum(), moved)
            size = case.epsilon * 0.3 * (1 - step / 60)
            moved = moved.detach() - size * slope / slope.flatten(1).norm(dim=1).view(-1, 1, 1, 1).clamp_min(1e-12)
            moved = moved * (case.epsilon / moved.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).clamp_max(1)
    return lowest


@pytest.mark.usefixtures("few_steps")
def test_search_leaves_images_with_a_counterexample_and_splits_the_others() -> None:
    case = _case("plain", "relu")
    lowest = _lowest(case)
    first = torch.tensor([0, len(lowest) // 2])
    whole, lowest, rows = case.whole[first], lowest[first], case.rows.of_rows(first)
    required = torch.zeros_like(whole)
    robust = rows._replace(constant=-whole - 0.1 * (lowest - whole))  # proved of parts alone
    ascended, split = (
        case.ball.certain(proved(case.graph, robust, case.state, case.ball, Effort(20, splits), required))
        for splits in (0, 3)
    )
    assert not (ascended > 0).any()
    assert (split > 0).any()
    broken = rows._replace(constant=-lowest - 0.01)
    closest = bounded(case.graph, broken, case.state, case.ball)
    left = proved(case.graph, broken, case.state, case.ball, Effort(25, 4), required)
    assert torch.equal(case.ball.certain(left), case.ball.certain(closest))


@pytest.mark.usefixtures("few_steps")
def test_where_nothing_bends_there_is_nothing_to_split() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 8), nn.ReLU(), nn.Linear(8, 5)).double().requires_grad_(False)
    model[1].bias.fill_(100.0)
    inputs = networks.images(2)
    graph = compile_graph(model, inputs.shape[1:])
    with torch.no_grad():
        analysis = analyze(
            graph, inputs, 0.1, "tight", ExactNorms(), arithmetic=Arithmetic.of(torch.float64, torch.float64)
        )
    split = split_activations(graph)
    state, ball = proved_state(split, analysis.activations, Ball(inputs, torch.full((2,), 0.1).double()))
    rows = Rows.of(torch.randn(2, 5).double(), torch.arange(2))
    value = ball.certain(bounded(split, rows, state, ball))
    goal = torch.stack((value[0] - 0.1, value[1] + 1e-3))
    first, second = (
        least_of_parts(split, rows.of_rows(row), state, ball, 3, goal[row]) for row in torch.arange(2).split(1)
    )
    assert goal[0] < first <= value[0] + 1e-9
    assert second == -torch.inf
