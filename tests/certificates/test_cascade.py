"""The cascade: every stage only sees what the others left, and keeps the best of what they found."""

from __future__ import annotations

from functools import cache, partial
from itertools import pairwise
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

import lipcert
from lipcert.bounds import Bound
from lipcert.certificates import Cascade, Certifier, Float64Model, Stage
from lipcert.crown import refuted_from
from lipcert.graph import compile_graph
from lipcert.graph.activations import Nonlinearity, Positive
from tests.networks import images, network

IMAGES = images(12)


def _case(kind: str = "relu") -> tuple[nn.Module, Tensor, Tensor]:
    model = network("plain", kind, scale=1.2)
    return model, IMAGES, model(IMAGES).argmax(dim=1)


@cache
def _epsilon(kind: str = "relu") -> float:
    """Return a radius at which the last stage certifies some images and `global` none."""
    model, inputs, labels = _case(kind)
    return 1.1 * float(lipcert.certified_radius(model, inputs, labels, "tight", largest=1.0, rounds=8).quantile(0.3))


def test_stages_enter_what_the_ones_before_left() -> None:
    model, inputs, labels = _case()
    labels = labels.clone()
    labels[0] = (labels[0] + 1) % 5  # no stage certifies a wrong prediction
    cascade = Cascade(model)
    certificate = cascade(inputs, labels, _epsilon())
    assert cascade.tallies[0].entered == 12
    assert [tally.certified for tally in cascade.tallies] == [
        int((certificate.stage == index).sum()) for index in range(len(cascade.stages))
    ]
    for index, tally in enumerate(cascade.tallies[1:], start=1):
        assert tally.entered <= 11 - sum(before.certified for before in cascade.tallies[:index])
    assert cascade.tallies[1].entered == 11 - cascade.tallies[0].certified
    assert cascade.tallies[-1].certified > 0
    assert torch.equal(certificate.stage >= 0, certificate.certified)
    assert certificate.radius[0] == 0
    assert certificate.bound == "cascade"


@pytest.mark.parametrize("kind", ["relu", "clipped_relu", "maxmin", "clipped_maxmin"])
def test_it_certifies_what_its_last_stage_alone_does(kind: str) -> None:
    model, inputs, labels = _case(kind)
    epsilon = _epsilon(kind)
    cascade = Cascade(model, [Stage("global", Bound.GLOBAL, 20), Stage("all", Bound.LIPLT, 60)])(
        inputs, labels, epsilon
    )
    alone = Certifier(Float64Model(model), Bound.LIPLT)(inputs, labels, epsilon)
    assert torch.equal(cascade.certified, alone.certified)
    assert (cascade.margin >= torch.where(cascade.stage == 0, 0, alone.margin) - 1e-6).all()


def test_networks_without_backward_bounds_are_left_to_the_other_stages() -> None:
    model, inputs, labels = _case()
    with mock.patch.object(Positive, "steps", Nonlinearity.steps):
        cascade = Cascade(model)
        certificate = cascade(inputs, labels, _epsilon())
    assert [tally.entered > 0 for tally in cascade.tallies] == [True, True, True, False]
    assert bool(certificate.certified.any())
    assert not certificate.certified.all()


def test_hopeless_images_do_not_enter() -> None:
    model, inputs, labels = _case()
    cascade = Cascade(model, [Stage("global", Bound.GLOBAL, 40), Stage("tight", Bound.TIGHT, 40, within=0.999)])
    cascade(inputs, labels, 5.0)
    assert cascade.tallies[1].entered == 0


def test_each_image_may_have_its_own_radius() -> None:
    model, inputs, labels = _case()
    radii = torch.linspace(0.01, 0.5, 12, dtype=torch.float64)
    together = Cascade(model)(inputs, labels, radii)
    for row in (0, 5, 11):
        alone = Cascade(model)(inputs[row : row + 1], labels[row : row + 1], float(radii[row]))
        assert alone.certified.item() == together.certified[row].item()
        assert alone.radius.item() == pytest.approx(together.radius[row].item(), rel=0.02)


def test_global_norms_are_named_by_the_activation_behind_them() -> None:
    model, inputs, labels = _case()
    cascade = Cascade(model)
    cascade(inputs, labels, 0.1)
    brackets = cascade.norm_brackets()
    assert set(brackets) == {"1", "3", "6"}
    assert all(0 < lower <= upper < 1.001 * lower for lower, upper in brackets.values())


def test_no_stages_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one stage"):
        Cascade(_case()[0], [])


@pytest.mark.parametrize("clip_input", [False, True])
def test_several_epsilons_prove_what_each_would_and_keep_what_larger_ones_prove(clip_input: bool) -> None:
    model, inputs, labels = _case()
    labels = labels.clone()
    labels[0] = (labels[0] + 1) % 5
    epsilons = [_epsilon() * factor for factor in (0.5, 1.0, 1.3, 1.7, 3.0)]
    several, single = Cascade(model, clip_input=clip_input), Cascade(model, clip_input=clip_input)
    found = several.each(inputs, labels, epsilons)
    assert list(found) == epsilons
    for epsilon, each in found.items():
        alone = single(inputs, labels, epsilon)
        assert each.epsilon == epsilon
        assert not bool((alone.certified & ~each.certified).any())
        assert torch.equal(each.certified, each.margin > 0)
        assert bool((each.radius[each.certified] >= epsilon).all())
        assert bool((each.radius[~each.certified] < epsilon).all())
        assert not bool(each.certified[0])
    for smaller, larger in pairwise(found.values()):
        kept = larger.certified
        assert bool(smaller.certified[kept].all())
        assert torch.equal(smaller.margin[kept], larger.margin[kept])
        assert torch.equal(smaller.stage[kept], larger.stage[kept])
    assert several.tallies[-1].certified > 0
    assert several.tallies[-1].entered < single.tallies[-1].entered  # counterexamples were found before
    with pytest.raises(ValueError, match="labels in"):
        several.each(inputs, labels + 5, epsilons)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("first", [True, False])
def test_no_epsilon_of_several_is_taken_unseen(bad: float, first: bool) -> None:
    """Where all images are certified at the largest, nothing is computed at the others."""
    model, inputs, labels = _case()
    certified = Cascade(model)(inputs, labels, 1e-6).certified
    epsilons = [bad, 1e-6] if first else [1e-6, bad]
    for call in (Cascade(model).each, partial(lipcert.certify, model)):
        with pytest.raises(ValueError, match="`epsilon` > 0 and finite"):
            call(inputs[certified], labels[certified], epsilons)


def test_counterexamples_to_a_linear_network_begin_at_its_distance() -> None:
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Flatten(), nn.Linear(9, 3)).double(), torch.rand(40, 1, 3, 3).double()
    graph, logits, weight = compile_graph(model, (1, 3, 3)).frozen(), model(inputs).detach(), model[1].weight.detach()
    labels = logits.argmax(dim=1)
    lead = logits.gather(1, labels.unsqueeze(1)) - logits
    lengths = (weight[labels].unsqueeze(1) - weight).norm(dim=2)
    distance = (lead / lengths).scatter(1, labels.unsqueeze(1), torch.inf).amin(dim=1)
    epsilons = [0.05, 0.1, 0.2, 0.3, 0.5, 0.8]
    found = refuted_from(graph, inputs, labels, epsilons, clip_input=False)
    assert bool((found >= distance).all())
    assert {*found.tolist()} <= {*epsilons, torch.inf}
    easy = [min((each for each in epsilons if each > 1.2 * float(far)), default=torch.inf) for far in distance]
    assert bool((found <= torch.tensor(easy)).all())
    assert len({*found.tolist()}) > 3
    assert bool((refuted_from(graph, inputs, labels, epsilons, clip_input=True) >= found).all())
