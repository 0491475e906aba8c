"""Backward linear bounds as stages of certification."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn

import lipcert
from lipcert.bounds import Bound
from lipcert.certificates import OTHER_STAGES, STAGES, Cascade, Certificate, Certifier, Float64Model, Stage
from lipcert.crown import Effort
from tests.crown.few_steps import optimise_in_few_steps
from tests.networks import images, network
from tests.oracles import points_in_ball

IMAGES = images(6)
KINDS = ("relu", "clipped_relu", "maxmin", "clipped_maxmin")


@pytest.fixture(autouse=True)
def fixture_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    optimise_in_few_steps(monkeypatch)


def _case(name: str = "plain", kind: str = "relu") -> tuple[nn.Module, Tensor, Tensor]:
    model = network(name, kind, scale=1.2)
    return model, IMAGES, model(IMAGES).argmax(dim=1)


def _effort(steps: int | None) -> Effort | None:
    return None if steps is None else Effort(steps, splits=2 if steps else 0, refined=256)


def _certify(model: Float64Model, labels: Tensor, epsilon: float, steps: int | None, **settings: object) -> Certificate:
    certifier = Certifier(model, Bound.TIGHT, effort=_effort(steps), **settings)  # type: ignore[arg-type]
    return certifier(IMAGES, labels, epsilon)


@cache
def _epsilon(name: str = "plain", kind: str = "relu") -> float:
    """Return a radius at which `tight` certifies about a third."""
    model, inputs, labels = _case(name, kind)
    radii = lipcert.certified_radius(model, inputs, labels, Bound.TIGHT, largest=0.3, rounds=6)
    return 1.1 * float(radii.quantile(0.6))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["plain", "residual"])
def test_margins_grow_and_stay_below_what_points_reach(name: str, kind: str) -> None:
    model, inputs, labels = _case(name, kind)
    epsilon, norms_once = _epsilon(name, kind), Float64Model(model)
    before, closest, best = (_certify(norms_once, labels, epsilon, steps) for steps in (None, 0, 5))
    for first, second in ((before, closest), (closest, best)):
        assert (second.certified >= first.certified).all()
        assert (second.margin >= first.margin - 1e-6 * (1 + first.margin.abs())).all()
        assert (second.radius >= first.radius * 0.98).all()
    assert (best.margin > before.margin + 1e-6).any()
    assert ((best.radius < epsilon) | best.certified).all()
    with torch.no_grad():
        logits = model(points_in_ball(inputs, epsilon, 200).flatten(0, 1))
    own = labels.repeat(200)[:, None]
    reached = logits.gather(1, own)[:, 0] - logits.scatter(1, own, -torch.inf).amax(dim=1)
    assert (best.margin <= reached.view(200, -1).amin(dim=0)).all()


def test_a_radius_proved_by_linear_bounds_is_proved_again_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lipcert.crown.search.refuted", lambda graph, rows, *_: torch.zeros(len(rows.image)) > 0)
    model, _, labels = _case("residual", "clipped_relu")
    epsilon, norms_once = _epsilon("residual", "clipped_relu"), Float64Model(model)
    count = 0
    for factor in (1.1, 1.3):
        found = _certify(norms_once, labels, factor * epsilon, 10)
        alone = _certify(norms_once, labels, factor * epsilon, None)
        rows = (~found.certified & (found.radius > alone.radius * 1.02)).nonzero()[:, 0]
        if len(rows):
            certifier = Certifier(norms_once, Bound.TIGHT, effort=Effort(60, refined=256))
            assert certifier(IMAGES[rows], labels[rows], found.radius[rows]).certified.all()
        count += len(rows)
    assert count


def test_the_stated_arithmetic_decides() -> None:
    model, _, labels = _case()
    model = model.float()
    epsilon = 1.1 * _epsilon()
    executed, exact = (
        _certify(Float64Model(model), labels, epsilon, 0, arithmetic=each) for each in ("executed", "exact")
    )
    assert (exact.margin >= executed.margin).all()
    assert (executed.rounding > 0).all()
    torch.testing.assert_close(exact.margin - executed.margin, executed.rounding, rtol=0.5, atol=1e-9)


def test_only_what_other_stages_left_enters() -> None:
    model, inputs, labels = _case()
    labels = labels.clone()
    labels[0] = (labels[0] + 1) % 5
    epsilon = _epsilon()
    stages = (STAGES[2], replace(STAGES[3], within=0.0, effort=Effort(10)))
    cascade = Cascade(model, stages)
    certificate = cascade(inputs, labels, epsilon)
    assert cascade.tallies[0].entered == 6
    assert cascade.tallies[1].entered == 5 - cascade.tallies[0].certified
    assert cascade.tallies[1].certified == int((certificate.stage == 1).sum()) > 0
    assert not certificate.certified[0]
    assert certificate.radius[0] == 0


def test_constant_logits_and_ties_are_never_certified() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 4), nn.ReLU(), nn.Linear(4, 3)).double().eval()
    nn.init.zeros_(model[3].weight)
    nn.init.zeros_(model[3].bias)
    certificate = _certify(Float64Model(model), torch.zeros(6, dtype=torch.long), 0.1, 5)
    assert not certificate.certified.any()
    assert (certificate.radius == 0).all()


def test_records_tell_linear_bounds_from_lipschitz_bounds() -> None:
    assert [stage.method for stage in STAGES] == ["global", "local", "tight", "crown-alpha"]
    assert [stage.method for stage in OTHER_STAGES] == ["tight", "liplt", "crown", "crown-alpha", "crown-alpha"]
    assert Stage("mine", Bound.LIPLT, 30, effort=Effort(3)).method == "crown-alpha"


@pytest.mark.parametrize("steps", [0, 3])
def test_layout_and_inference_mode_change_nothing(steps: int) -> None:
    model, inputs, labels = _case("plain", "clipped_relu")
    epsilon = _epsilon("plain", "clipped_relu")
    expected = _certify(Float64Model(model), labels, epsilon, steps)
    certifier = Certifier(Float64Model(model), Bound.TIGHT, effort=Effort(steps))
    channels_last = certifier(inputs.to(memory_format=torch.channels_last), labels, epsilon)
    with torch.inference_mode():
        inside = Certifier(Float64Model(model), Bound.TIGHT, effort=Effort(steps))
        inferred = inside(inputs.clone(), labels.clone(), epsilon)
    for other in (channels_last, inferred):
        torch.testing.assert_close(other.margin, expected.margin, rtol=1e-4, atol=1e-5)  # sums in another order
        assert torch.equal(other.certified, expected.certified)
