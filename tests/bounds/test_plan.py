"""Work that is skipped while training: bounds only become looser, and nothing is skipped that gains enough."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lipcert.bounds import Analysis, Bound, Plan, analyze, measure_plan
from lipcert.bounds.product import Demand
from lipcert.graph import LinearMap, compile_graph
from lipcert.nn import Residual
from lipcert.norms import MapKey
from tests.networks import IMAGE, NETWORKS, images, network
from tests.oracles import ExactNorms
from tests.pairwise import pairwise

BOUNDS = [Bound.GLOBAL, Bound.LOCAL, Bound.TIGHT, Bound.LINEAR_SPLIT, Bound.LIPLT]
KINDS = ["relu", "clipped_relu", "maxmin", "clipped_maxmin"]
EPSILON = 0.3


def _plan(name: str, kind: str, bound: Bound, threshold: float) -> Plan:
    graph = compile_graph(network(name, kind), IMAGE)
    return measure_plan(graph, images(4), EPSILON, bound, ExactNorms(), threshold)


def _analysis(name: str, kind: str, bound: Bound, plan: Plan) -> Analysis:
    return analyze(network(name, kind), images(4), EPSILON, bound, ExactNorms(), plan=plan)


@pairwise(name=NETWORKS, kind=KINDS, bound=BOUNDS)
def test_what_is_skipped_only_loosens(name: str, kind: str, bound: Bound) -> None:
    everything = _analysis(name, kind, bound, Plan())
    spared = _analysis(name, kind, bound, _plan(name, kind, bound, threshold=2.0))
    for full, loose in zip(everything.activations, spared.activations, strict=True):
        assert (loose.lower <= full.lower + 1e-12).all()
        assert (loose.upper >= full.upper - 1e-12).all()
    assert (spared.lipschitz >= everything.lipschitz * (1 - 1e-12)).all()
    if bound is not Bound.LINEAR_SPLIT:
        assert (spared.lipschitz <= everything.global_lipschitz * (1 + 1e-12)).all()


@pairwise(name=NETWORKS, bound=BOUNDS)
def test_nothing_is_skipped_where_everything_pays(name: str, bound: Bound) -> None:
    assert _plan(name, "clipped_relu", bound, threshold=-9.0) == Plan()


def test_something_is_skipped_where_nothing_pays() -> None:
    """Otherwise the tests above would compare an analysis with itself."""
    plan = _plan("plain", "clipped_relu", Bound.TIGHT, threshold=2.0)
    assert plan.masks == plan.rows == {"1", "3", "6"}
    assert plan.boxes - {"4"} == {"2", "5"}  # 4 only moves entries, nobody asks for the box behind 7
    spared = _analysis("plain", "clipped_relu", Bound.TIGHT, plan)
    assert torch.equal(spared.lipschitz, spared.global_lipschitz)
    full = _analysis("plain", "clipped_relu", Bound.TIGHT, Plan())
    assert (full.lipschitz < full.global_lipschitz).any()


def test_bounds_without_masks_skip_boxes_alone() -> None:
    for bound in (Bound.GLOBAL, Bound.GLOBAL_LIPLT):
        plan = _plan("plain", "clipped_relu", bound, threshold=2.0)
        assert plan.masks == plan.rows == frozenset()


class NanNorms:
    """Norms of a network that broke."""

    def global_norm(self, key: MapKey, linear_map: LinearMap) -> Tensor:
        return torch.full((1,), torch.nan, dtype=torch.float64)

    def local_norms(self, key: MapKey, linear_map: LinearMap, rows: Tensor | None, columns: Tensor | None) -> Tensor:
        return self.global_norm(key, linear_map)


def test_a_gain_that_is_not_a_number_skips_nothing() -> None:
    graph = compile_graph(network("plain", "clipped_relu"), IMAGE)
    plan = measure_plan(graph, images(4), EPSILON, Bound.LOCAL, NanNorms(), threshold=2.0)
    assert plan == Plan()


@pytest.mark.parametrize(("gains_elsewhere", "skipped"), [(3.0, False), (-3.0, True)])
def test_gains_are_means_over_processes(gains_elsewhere: float, skipped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes, of which the other one sees every gain at `gains_elsewhere`."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda values: values.add_(gains_elsewhere))
    plan = _plan("plain", "clipped_relu", Bound.TIGHT, threshold=0.0 if skipped else 1.0)
    assert [bool(each) for each in (plan.boxes, plan.masks, plan.rows)] == [skipped] * 3


@pytest.mark.parametrize(("threshold", "skipped"), [(0.49, set()), (0.51, {"0"})])
def test_the_gain_of_a_box_is_the_share_of_the_ball_that_it_cuts_off(threshold: float, skipped: set[str]) -> None:
    """At the corner of [0, 1]² a ball of radius 1 lets neurons into [-1, 1], clipped pixels into [0, 1]: gain 1/2."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).double().eval().requires_grad_(False)
    model[0].weight.copy_(torch.eye(2))
    model[0].bias.zero_()
    inputs = torch.zeros(1, 2, dtype=torch.float64)
    graph = compile_graph(model, (2,))
    assert measure_plan(graph, inputs, 1.0, "local", ExactNorms(), threshold, clip_input=True).boxes == skipped


def test_what_is_demanded_of_a_graph() -> None:
    block = Residual(nn.Sequential(nn.Linear(3, 3), nn.ReLU()))
    graph = compile_graph(nn.Sequential(nn.Linear(3, 3), block, nn.ReLU(), nn.Linear(3, 2)), (3,))
    # 0 image, 1 first layer, 2 and 3 branch, 4 shortcut, 5 sum, 6 activation, 7 output
    assert Demand(graph, Plan()).boxes == {0, 1, 2, 3, 4, 5, 6}
    skipped = Plan(boxes=frozenset({"1.branch.0"}))
    assert Demand(graph, skipped).boxes == {0, 1, 2, 3, 4, 5, 6}  # the shortcut asks for its input's box
    skipped = Plan(boxes=frozenset({"0", "1"}))
    assert Demand(graph, skipped).boxes == {1, 2, 5, 6}  # skipped sums ask for no box before them
    assert Demand(graph, Plan()).margins == set(range(8))  # balls behind sums are not known
    branch, output = "1.branch.1", "2"
    unmasked = [
        Demand(graph, Plan(masks=frozenset(each))).unmasked for each in ((), (branch,), (output,), (branch, output))
    ]
    assert unmasked == [set(), set(), {6}, {3, 6}]  # what varies behind the branch is asked before both


def test_gradients_pass_the_boxes_of_margins_alone_where_balls_are_known() -> None:
    plain = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    assert Demand(compile_graph(plain, (3,)), Plan()).margins == {3, 4}
