"""Linear classifiers, whose smallest adversarial distance is known: attacks succeed beyond it and nowhere else."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from lipcert.attacks import auto_attack, auto_attack_robust, pgd, pgd_robust, random_search, usable_auto_attacks

SHAPE = (1, 6, 6)


def _classifier(classes: int) -> tuple[nn.Sequential, Tensor, Tensor, Tensor]:
    """Return a network, images around grey, their labels, and the distance to the nearest other class, (N,)."""
    generator = torch.Generator().manual_seed(classes)
    weight = torch.randn(classes, 36, generator=generator, dtype=torch.float64)
    images = 0.5 + 0.1 * torch.randn(30, 36, generator=generator, dtype=torch.float64).clamp(-2, 2)
    bias = -weight.sum(dim=1) / 2  # a grey image ties
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, classes)).eval()
    model[1].load_state_dict({"weight": weight, "bias": bias})
    logits = images @ weight.T + bias
    labels = logits.argmax(dim=1)
    gaps = logits.gather(1, labels[:, None]) - logits
    normals = torch.cdist(weight, weight)[labels]
    distances = (gaps / normals).nan_to_num(torch.inf).scatter(1, labels[:, None], torch.inf).amin(dim=1)
    kept = (distances > 0.02) & (distances < 0.25)  # near enough for the box not to matter
    assert kept.sum() >= 5
    return model, images.view(-1, *SHAPE).float()[kept], labels[kept], distances[kept]


def _attacks(classes: int) -> dict[str, partial]:  # type: ignore[type-arg]
    return {
        "pgd": partial(pgd, steps=30),
        "random": partial(random_search, queries=50),
        **{n: partial(auto_attack, name=n, steps=20, queries=50) for n in usable_auto_attacks(SHAPE, classes)},
    }


def _flipped(model: nn.Module, attack, image: Tensor, label: Tensor, epsilon: float) -> bool:  # type: ignore[no-untyped-def]
    points = attack(model, image, label, epsilon)
    assert (points.double() - image.double()).norm() <= epsilon
    assert points.min() >= 0
    assert points.max() <= 1
    return bool(model(points).argmax(dim=1) != label)


@pytest.mark.parametrize("classes", [2, 3, 12])
def test_no_attack_succeeds_below_the_distance(classes: int) -> None:
    model, images, labels, distances = _classifier(classes)
    for attack in _attacks(classes).values():
        for row in range(2):
            epsilon = 0.999 * distances[row].item()
            assert not _flipped(model, attack, images[row : row + 1], labels[row : row + 1], epsilon)


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_attacks_with_gradients_succeed_beyond_the_distance(classes: int) -> None:
    """Those aimed at every other class find the nearest; one on the cross-entropy surely does with two classes."""
    model, images, labels, distances = _classifier(classes)
    exact = {"fab-t", "apgd-t"} | ({"pgd", "apgd-ce"} if classes == 2 else set())
    for name in exact & _attacks(classes).keys():
        for row in range(3):
            epsilon, attack = 1.01 * distances[row].item(), _attacks(classes)[name]
            assert _flipped(model, attack, images[row : row + 1], labels[row : row + 1], epsilon), name


@pytest.mark.parametrize("classes", [2, 3, 6, 10])
def test_auto_attack_as_a_whole_decides_at_the_distance(classes: int) -> None:
    model, images, labels, distances = _classifier(classes)
    ordered = distances.sort().values
    gap = int((ordered[3:-1] / ordered[2:-2]).argmax()) + 2
    epsilon = (ordered[gap] + ordered[gap + 1]).item() / 2
    assert ordered[gap + 1] > 1.01 * ordered[gap], "rounding does not fill the gap"
    robust = auto_attack_robust(model, images, labels, epsilon, steps=30, queries=50)
    assert robust.tolist() == (distances > epsilon).tolist()
    assert (pgd_robust(model, images, labels, epsilon, steps=30) | ~robust).all()  # it is no weaker than PGD


def test_wrong_predictions_do_not_withstand() -> None:
    model, images, labels, _ = _classifier(5)
    assert not auto_attack_robust(model, images, (labels + 1) % 5, 1e-3, steps=2, queries=2).any()


def test_seeds() -> None:
    model, images, labels, distances = _classifier(2)
    epsilon = distances.median().item() * 1.001
    state = torch.random.get_rng_state()
    first, again = (auto_attack_robust(model, images, labels, epsilon, steps=20, queries=20) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(state, torch.random.get_rng_state())
