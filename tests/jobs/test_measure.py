"""Certified radii: proved anew at each, the certifier's own verdict at epsilon, never smaller for a tighter bound."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from lipcert.attacks.foolbox_pgd import attack_at_growing_radii, refutations
from lipcert.bounds import Bound
from lipcert.certificates import Certifier, Float64Model, certify
from lipcert.jobs.measure import RESOLUTION, certified_radii, grid
from tests.soundness.trained import EPSILON, digits, trained

COUNT = 40


@cache
def _radii(bound: str) -> torch.Tensor:
    images, labels = digits(COUNT)
    known = torch.zeros(COUNT, dtype=torch.float64) if bound == "global" else _radii("global")
    certifier = Certifier(Float64Model(trained("clipped_relu")), bound)
    return certified_radii(certifier, images, labels, EPSILON, known, 3 * EPSILON, 7, COUNT).radius


@pytest.mark.parametrize("bound", ["global", "local", "tight"])
def test_each_radius_is_proved_by_a_certificate_of_its_own(bound: str) -> None:
    images, labels = digits(COUNT)
    radius = _radii(bound)
    rows = (radius > 0).nonzero()[:, 0]
    assert len(rows) > 20
    certificate = Certifier(Float64Model(trained("clipped_relu")), bound)(images[rows], labels[rows], radius[rows])
    assert bool(certificate.certified.all())


@pytest.mark.parametrize("bound", ["global", "local", "tight"])
def test_at_epsilon_it_is_what_certify_says(bound: str) -> None:
    images, labels = digits(COUNT)
    expected = certify(trained("clipped_relu"), images, labels, EPSILON, bound=bound).certified
    assert 5 < int(expected.sum()) < COUNT
    assert torch.equal(_radii(bound) >= EPSILON, expected)


def test_a_tighter_bound_never_proves_less() -> None:
    assert bool((_radii("local") >= _radii("global")).all())
    assert bool((_radii("local") > _radii("global")).any())


def test_radii_are_found_to_the_resolution() -> None:
    images, labels = digits(COUNT)
    radius = _radii("global")
    rows = ((radius > EPSILON) & (radius < 2 * EPSILON)).nonzero()[:, 0]
    assert len(rows) > 3
    beyond = radius[rows] + 2.1 * RESOLUTION * EPSILON
    certificate = Certifier(Float64Model(trained("clipped_relu")), Bound.GLOBAL)(images[rows], labels[rows], beyond)
    assert not bool(certificate.certified.any())


def test_wrong_predictions_have_no_radius() -> None:
    images, _ = digits(COUNT)
    model = trained("clipped_relu")
    with torch.no_grad():
        wrong = (model(images).argmax(dim=1) + 1) % 10
    certifier, known = Certifier(Float64Model(model)), torch.zeros(COUNT).double()
    found = certified_radii(certifier, images, wrong, EPSILON, known, 3 * EPSILON, 3, COUNT)
    assert bool((found.radius == 0).all())


def test_attacks_at_growing_radii() -> None:
    images, labels = digits(COUNT)
    model, radii = trained("clipped_relu"), (EPSILON, 5 * EPSILON, 30 * EPSILON)
    broken_at, prediction = attack_at_growing_radii(model, images, labels, radii, 5 * EPSILON, 20, 1, 16, 0)
    with torch.no_grad():
        clean = model(images).argmax(dim=1)
    assert torch.equal(broken_at == 0, clean != labels)
    assert set(broken_at.tolist()) <= {0.0, *radii, float("inf")}
    assert len(set(broken_at.tolist())) >= 3
    assert torch.equal(prediction != labels, broken_at <= 5 * EPSILON)
    assert bool((broken_at > _radii("tight")).logical_or(broken_at == 0).all())
    assert refutations(broken_at, _radii("tight")) == []


def test_where_no_image_is_classified_right_there_is_nothing_to_attack() -> None:
    model, (images, _) = trained("clipped_relu"), digits(5)
    with torch.no_grad():
        wrong = (model(images).argmax(dim=1) + 1) % 10
    broken_at, prediction = attack_at_growing_radii(model, images, wrong, [EPSILON], EPSILON, 2, 1, 16, 0)
    assert broken_at.tolist() == [0.0] * 5
    assert torch.equal((prediction + 1) % 10, wrong)


def test_a_broken_certificate_is_refuted() -> None:
    broken, radius = torch.tensor([0.2, 0.0, 0.3]), torch.tensor([0.2, 0.0, 0.1])
    (sentence,) = refutations(broken, radius)
    assert sentence.startswith("image 0 is certified within 0.2, and PGD changes its prediction within 0.2")


def test_the_grid_holds_epsilon() -> None:
    assert grid(0.3, 3, 12)[3] == 0.3
    assert grid(0.3, 3, 12)[-1] == pytest.approx(0.9)
    assert len(grid(0.3, 3, 12)) == 12
    assert 0.3 in grid(0.3, 2.5, 4)
    assert list(grid(0.3, 2.5, 4)) == sorted(grid(0.3, 2.5, 4))
