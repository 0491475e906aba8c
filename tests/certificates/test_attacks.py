"""The PGD adapter: inside the ball and [0, 1], never below what is certified."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import lipcert
from lipcert.attacks import pgd_robust
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
    epsilon = float(lipcert.certified_radius(model, inputs, labels, rounds=10).median())
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
