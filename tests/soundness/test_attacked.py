"""Attacks on certified images find nothing, watch every point they ask about, and refute margins that are too large."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from lipcert.certificates import certify
from lipcert.norms import UpperNorms
from lipcert.soundness.attacked import ATTACKS, Certified, Recorder, attack_certified, reach, usable_attacks
from tests.networks import images, network
from tests.pairwise import pairwise
from tests.soundness.trained import QUICK, certified, digits, trained


@pairwise(name=ATTACKS, activation=["clipped_relu", "maxmin"], box=[True, False])
def test_certified_images_hold(name: str, activation: str, box: bool) -> None:
    target, _ = certified(activation)
    assert len(target) >= 100
    strength = QUICK
    if name in ("apgd-t", "fab-t"):
        target, strength = target.rows(slice(24)), replace(QUICK, steps=8)
    found, points = attack_certified(trained(activation), target, name, box, strength)
    assert (found.attacked, found.found, found.below, found.refutations) == (len(target), 0, 0, ())
    assert found.smallest_executed > 0
    assert found.smallest_room > 0
    assert found.inside > (0.01 if name == "fab-t" else 0.999)
    distances = (points.double() - target.images.double()).flatten(1).norm(dim=1)
    assert (distances <= target.epsilon).all()
    if box:
        assert bool(((points >= 0) & (points <= 1)).all())


def test_free_pixels_are_worse() -> None:
    target, _ = certified("clipped_relu")
    inside, free = (attack_certified(trained("clipped_relu"), target, "pgd", box, QUICK)[0] for box in (True, False))
    assert free.smallest_room < inside.smallest_room


@pytest.mark.parametrize("name", ["pgd", "apgd-ce", "random"])
def test_margins_that_are_too_large_are_refuted(name: str) -> None:
    """Labels hold, and yet: no other check would notice."""
    target, _ = certified("clipped_relu")
    shifted = replace(target, margins=target.margins + 4)
    found, _ = attack_certified(trained("clipped_relu"), shifted, name, True, QUICK)
    assert found.found == 0
    assert found.below > 10
    assert len(found.refutations) == found.below
    assert "found an executed margin of" in found.refutations[0]


@pytest.mark.parametrize("name", ["pgd", "apgd-ce", "apgd-t"])
def test_images_certified_by_norms_that_are_too_small(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for kind in ("local_norms", "global_norm"):
        correct = getattr(UpperNorms, kind)
        monkeypatch.setattr(UpperNorms, kind, lambda *arguments, correct=correct: correct(*arguments) * 0.3)
    model, (inputs, labels), epsilon = trained("clipped_relu"), digits(60), 1.5
    certificate = certify(model, inputs, labels, epsilon)
    rows = certificate.certified.nonzero()[:, 0]
    assert len(rows) > 5
    target = Certified(epsilon, inputs, labels, certificate.margin, certificate.rounding, torch.arange(60)).rows(rows)
    found, _ = attack_certified(model, target, name, False, QUICK)
    assert found.found > 0
    assert found.refutations[0].startswith("image ")


def test_batches_do_not_matter() -> None:
    target, _ = certified("clipped_relu")
    part = target.rows(slice(7))
    found, points = attack_certified(trained("clipped_relu"), part, "pgd", True, replace(QUICK, batch_size=3))
    assert (found.attacked, len(points)) == (7, 7)


@pytest.mark.parametrize("classes", [2, 3, 4, 5])
def test_few_classes(classes: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, classes)).eval()
    inputs = images(6).float()
    labels = model(inputs).argmax(dim=1)
    certificate = certify(model, inputs, labels, 0.01)
    rows = certificate.certified.nonzero()[:, 0]
    assert len(rows) > 2
    target = Certified(0.01, inputs, labels, certificate.margin, certificate.rounding, torch.arange(6)).rows(rows)
    usable = usable_attacks(ATTACKS, (2, 6, 6), classes)
    assert ("apgd-t" in usable) == (classes >= 4)
    for name in usable:
        found, _ = attack_certified(model, target, name, False, QUICK)
        assert found.refutations == ()
        assert found.smallest_room < 0.02


def test_networks_in_float64() -> None:
    model = network("plain", "clipped_relu")
    inputs = images(6)
    labels = model(inputs).argmax(dim=1)
    certificate = certify(model, inputs, labels, 0.01)
    target = Certified(0.01, inputs, labels, certificate.margin, certificate.rounding, torch.arange(6))
    for name in usable_attacks(ATTACKS, (2, 6, 6), 5):
        found, _ = attack_certified(model, target, name, True, QUICK)
        assert found.below == 0


def test_the_recorder_keeps_the_worst_point_of_the_nearest_image() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False)).eval()
    model[0].weight.data = torch.eye(2)
    origins, labels = torch.tensor([[0.9, 0.1], [0.1, 0.9]]), torch.tensor([0, 1])
    recorder = Recorder(model, origins, labels, 0.2)
    recorder(torch.tensor([[0.1, 0.8], [0.8, 0.1], [0.85, 0.1], [0.4, 0.4], [0.9, 0.2]]))
    assert (recorder.asked, recorder.inside) == (5, 4)  # one is in no ball
    torch.testing.assert_close(recorder.smallest, torch.tensor([0.7, 0.7], dtype=torch.float64))
    recorder(torch.tensor([[0.85, 0.2]]))
    torch.testing.assert_close(recorder.smallest, torch.tensor([0.65, 0.7], dtype=torch.float64))
    torch.testing.assert_close(recorder.points, torch.tensor([[0.85, 0.2], [0.1, 0.8]]))


def test_the_recorder_counts_nan_as_found() -> None:
    recorder = Recorder(nn.Sequential(nn.Linear(1, 2)).eval(), torch.zeros(1, 1), torch.tensor([0]), 1.0)
    recorder.model[0].weight.data.fill_(torch.nan)  # type: ignore[index, union-attr]
    recorder(torch.zeros(1, 1))
    assert recorder.smallest.item() == -torch.inf


@pytest.mark.parametrize("epsilon", [1e-9, 1e-3, 0.5, 100.0])
def test_the_radius_attacked_at(epsilon: float) -> None:
    assert 0.5 * epsilon <= reach(epsilon, 784) < epsilon
    if epsilon >= 0.5:
        assert reach(epsilon, 784) >= epsilon * (1 - 3e-6)
