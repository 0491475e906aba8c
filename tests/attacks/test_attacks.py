"""Attack adapters: inside the ball and the box, stronger than nothing, never below what is certified."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

import lipcert
from lipcert.attacks import (
    AUTO_ATTACKS,
    PIXELS,
    Box,
    auto_attack,
    auto_attack_robust,
    margins,
    pgd,
    pgd_robust,
    random_search,
    unbounded,
    usable_auto_attacks,
)
from tests.networks import images, network


class _Recording(nn.Module):
    """Remembers the furthest point it was asked about."""

    def __init__(self, model: nn.Module, originals: Tensor) -> None:
        super().__init__()
        self.model, self.originals = model, originals
        self.furthest, self.outside = 0.0, 0.0

    def forward(self, inputs: Tensor) -> Tensor:
        distance = (inputs.detach() - self.originals).flatten(1).norm(dim=1).max().item()
        self.furthest = max(self.furthest, distance)
        self.outside = max(self.outside, (inputs.detach() - inputs.detach().clamp(0, 1)).abs().max().item())
        return self.model(inputs)


def test_attack_stays_inside_and_weakens_the_network() -> None:
    inputs = images(20).float()
    model = network("plain", "relu", scale=1.5).float()
    labels = model(inputs).argmax(dim=1)
    recording = _Recording(model, inputs).eval()
    robust = pgd_robust(recording, inputs, labels, 0.5, steps=20)
    assert recording.furthest <= 0.5 * (1 + 1e-5)
    assert recording.furthest > 0.4
    assert recording.outside <= 1e-6
    assert robust.shape == (20,)
    assert robust.float().mean() < 1


def test_certified_images_are_robust() -> None:
    inputs = images(20).float()
    model = network("plain", "clipped_relu", scale=1.2).float()
    labels = model(inputs).argmax(dim=1)
    epsilon = float(lipcert.certified_radius(model, inputs, labels, "tight", rounds=10).median())
    certified = lipcert.certify(model, inputs, labels, epsilon).certified
    assert certified.any()
    assert pgd_robust(model, inputs, labels, epsilon, steps=30)[certified].all()


def test_wrong_predictions_are_not_robust() -> None:
    inputs = images(5).float()
    model = network("plain", "relu").float()
    labels = (model(inputs).argmax(dim=1) + 1) % 5
    assert not pgd_robust(model, inputs, labels, 1e-6, steps=1).any()


def test_a_model_in_train_mode_is_refused() -> None:
    model = network("plain", "relu").float().train()
    with pytest.raises(ValueError, match="eval"):
        pgd_robust(model, images().float(), torch.zeros(3).long(), 0.1)


def test_more_restarts_find_smaller_margins() -> None:
    inputs = images(20).float()
    model = network("plain", "relu", scale=1.5).float()
    labels = model(inputs).argmax(dim=1)
    reached = []
    for restarts in (1, 6):
        torch.manual_seed(0)
        reached.append(margins(model, pgd(model, inputs, labels, 0.3, steps=3, restarts=restarts), labels))
    assert (reached[1] <= reached[0]).all()
    assert (reached[1] < reached[0]).any()
    assert pgd_robust(model, inputs, labels, 1e-6, steps=1, restarts=2).all()


ATTACKS = {
    "pgd": partial(pgd, steps=20),
    "random": partial(random_search, queries=200),
    **{name: partial(auto_attack, name=name, steps=20, queries=200) for name in AUTO_ATTACKS},
}


@pytest.mark.parametrize("box", [PIXELS, unbounded(0.5)])
@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_stays_inside_and_lowers_margins(name: str, box: Box) -> None:
    inputs = images(12).float()
    model = network("plain", "relu", scale=1.5).float()
    labels = model(inputs).argmax(dim=1)
    points = ATTACKS[name](model, inputs, labels, 0.5, box=box)
    assert (points.shape, points.dtype, points.requires_grad) == (inputs.shape, torch.float32, False)
    distances = (points - inputs).flatten(1).norm(dim=1)
    assert points.min() >= box[0] - 1e-6
    assert points.max() <= box[1] + 1e-6
    assert (distances <= 0.5 * (1 + 1e-5)).all()
    before, after = margins(model, inputs, labels), margins(model, points, labels)
    assert (after <= before + 1e-6).all()
    assert (after <= 0).any()  # the network is that weak


def test_free_pixels_leave_the_unit_box() -> None:
    inputs = torch.zeros(4, 2, 6, 6)
    model = network("plain", "relu", scale=1.5).float()
    labels = model(inputs).argmax(dim=1)
    for attack in ATTACKS.values():
        assert attack(model, inputs, labels, 0.5, box=PIXELS).min() >= 0
    for name in ("pgd", "random"):
        assert ATTACKS[name](model, inputs, labels, 0.5, box=unbounded(0.5)).min() < 0


def test_random_search_is_reproducible_and_leaves_torch_alone() -> None:
    inputs = images(4).float()
    model = network("plain", "relu").float()
    labels = model(inputs).argmax(dim=1)
    for attack in (partial(random_search, queries=20), partial(auto_attack, name="square", queries=20)):
        state = torch.random.get_rng_state()
        first, second = (attack(model, inputs, labels, 0.5, seed=3) for _ in range(2))
        assert torch.equal(state, torch.random.get_rng_state())
        assert torch.equal(first, second)
    assert not torch.equal(*(random_search(model, inputs, labels, 0.5, queries=20, seed=seed) for seed in (3, 4)))


@pytest.mark.parametrize("classes", [2, 3, 4, 12])
def test_any_number_of_classes(classes: int) -> None:
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Flatten(), nn.Linear(72, classes)).eval(), images(5).float()
    labels = model(inputs).argmax(dim=1)
    usable = usable_auto_attacks((2, 6, 6), classes)
    assert set(AUTO_ATTACKS) - set(usable) == ({"apgd-t"} if classes < 4 else set())
    for name in usable:
        points = auto_attack(model, inputs, labels, 2.0, name, steps=10, queries=50)
        assert (margins(model, points, labels) <= 0).any()


@pytest.mark.parametrize("label", [0, 1])
def test_a_network_that_says_nothing_is_not_robust(label: int) -> None:
    class FailsBesides(nn.Module):
        """Sure of its label at the images, NaN elsewhere."""

        def forward(self, inputs: Tensor) -> Tensor:
            logits = nn.functional.one_hot(torch.tensor([label] * len(inputs)), 3).float() + 0 * inputs.sum()
            away = (inputs - clean).flatten(1).norm(dim=1) > 0.01
            return torch.where(away[:, None], torch.nan, logits)

    clean, labels = images(3).float(), torch.tensor([label] * 3)
    model = FailsBesides().eval()
    assert (margins(model, clean, labels) == 1).all()
    assert (margins(model, pgd(model, clean, labels, 0.5, steps=3), labels) == -torch.inf).all()
    assert not pgd_robust(model, clean, labels, 0.5, steps=3).any()


def test_one_class_withstands_everything() -> None:
    model, inputs = nn.Sequential(nn.Flatten(), nn.Linear(72, 1)).eval(), images(3).float()
    labels = torch.zeros(3, dtype=torch.int64)
    assert usable_auto_attacks((2, 6, 6), 1) == ()
    assert auto_attack_robust(model, inputs, labels, 0.5).all()
    assert pgd_robust(model, inputs, labels, 0.5, steps=3).all()


@pytest.mark.parametrize("name", AUTO_ATTACKS)
def test_memory_in_another_order_changes_nothing(name: str) -> None:
    """Of images that come with channels last, as decoders yield them, and of convolutions that keep that order."""
    model, inputs = network("plain", "relu").float().eval(), images(5).float()
    labels = model(inputs).argmax(dim=1)
    expected = auto_attack(model, inputs, labels, 0.5, name, steps=5, queries=20)
    last = inputs.to(memory_format=torch.channels_last)
    found = auto_attack(model.to(memory_format=torch.channels_last), last, labels, 0.5, name, steps=5, queries=20)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_flat_images() -> None:
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Linear(72, 5)).eval(), images(5).float().flatten(1)
    labels = model(inputs).argmax(dim=1)
    assert usable_auto_attacks((72,), 5) == ("apgd-ce", "apgd-t", "fab-t")
    for name in usable_auto_attacks((72,), 5):
        assert auto_attack(model, inputs, labels, 0.1, name, steps=5).shape == (5, 72)
    assert random_search(model, inputs, labels, 0.1, queries=10).shape == (5, 72)


def test_attacks_that_do_not_work_are_refused() -> None:
    model, inputs = nn.Sequential(nn.Flatten(), nn.Linear(72, 3)).eval(), images(5).float()
    labels = torch.zeros(5, dtype=torch.int64)
    with pytest.raises(ValueError, match="apgd-ce, fab-t, square for 3 classes, got 'apgd-t'"):
        auto_attack(model, inputs, labels, 0.1, "apgd-t")
    for attack in (auto_attack, random_search, pgd):
        arguments = ("apgd-ce",) if attack is auto_attack else ()
        with pytest.raises(ValueError, match="epsilon"):
            attack(model, inputs, labels, 0.0, *arguments)  # type: ignore[operator]
        with pytest.raises(ValueError, match="eval"):
            attack(model.train(), inputs, labels, 0.1, *arguments)  # type: ignore[operator]
        model.eval()
