"""What is told of an evaluation before it starts."""

from __future__ import annotations

import logging

import pytest
import torch

from lipcert.certificates import Float64Model
from lipcert.norms import UpperNorms
from lipcert.system.schema import EvaluationConfig
from lipcert.training import estimate
from tests.networks import images, network


def test_parts_follow_steps_and_images(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network("plain", "relu")
    double = Float64Model(model, UpperNorms(5))
    passes = {torch.float32: 1.0, torch.float64: 10.0}
    monkeypatch.setattr(estimate, "seconds_a_pass", lambda model, images: passes[images.dtype])
    settings = EvaluationConfig(pgd_steps=7, lanczos_steps=5)
    found = estimate.estimated_seconds(model, double, images().float(), 2, ["global", "local"], settings)
    assert found == {"PGD": 2 * 7 * 3.0, "local bound": 2 * 5 * 2 * 10.0}
    settings.pgd_steps = 0
    assert not estimate.estimated_seconds(model, double, images().float(), 2, ["global"], settings)


def test_a_pass_is_timed() -> None:
    assert 0 < estimate.seconds_a_pass(network("plain", "relu"), images()) < 10


def test_only_what_is_long_is_announced(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        estimate.announce({"PGD": 20.0, "local bound": 30.0}, 100)
        estimate.announce({"PGD": 20.0, "local bound": 3600.0}, 100)
    assert caplog.messages == ["Evaluating 100 images takes about 1:00:20: PGD 0:00:20, local bound 1:00:00."]
