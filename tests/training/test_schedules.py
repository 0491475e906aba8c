"""Schedules against hand values (eqs 27-29)."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lipcert.training.schedules import Schedule, exponential_decay, ramp


def _schedule(**replaced: Any) -> Schedule:
    values = {
        "epochs": 100,
        "warmup_epochs": 10,
        "ramp_epochs": 50,
        "decay_epoch": 60,
        "initial_lr": 1e-2,
        "final_lr": 1e-6,
        "epsilon_train": 0.8,
    }
    return Schedule(**{**values, **replaced})


@pytest.mark.parametrize(
    ("progress", "factor"), [(0, 0), (9.99, 0), (10, 0), (20, 0.25), (30.5, 0.5125), (50, 1), (51, 1), (100, 1)]
)
def test_epsilon_and_mixing(progress: float, factor: float) -> None:
    """Eqs 28 and 29, after 10 epochs of warm-up."""
    assert _schedule().epsilon(progress) == pytest.approx(0.8 * factor)
    assert _schedule().mixing(progress) == pytest.approx(factor)


@pytest.mark.parametrize(
    ("progress", "expected"), [(0, 0), (9, 0), (20, 0.2673), (30, 0.4780), (40, 0.6519), (50, 0.8), (90, 0.8)]
)
def test_logarithmic_ramp(progress: float, expected: float) -> None:
    """After a quarter of the ramp log(1 + 0.25 (e^0.8 - 1)) = 0.2673; lambda keeps rising linearly."""
    schedule = _schedule(ramp="logarithmic")
    assert schedule.epsilon(progress) == pytest.approx(expected, abs=1e-4)
    assert schedule.mixing(progress) == _schedule().mixing(progress)


@pytest.mark.parametrize(
    ("progress", "expected"), [(0, 1e-2), (60, 1e-2), (70, 1e-3), (80, 1e-4), (90, 1e-5), (95, 10**-5.5), (100, 1e-6)]
)
def test_learning_rate(progress: float, expected: float) -> None:
    """Eq. 27: four decades over forty epochs."""
    assert _schedule().learning_rate(progress) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(0, 1e-2), (59.9, 1e-2), (60, 1e-3), (69.9, 1e-3), (70, 1e-4), (85, 1e-5), (90, 1e-6), (99.9, 1e-6), (100, 1e-6)],
)
def test_learning_rate_in_steps(progress: float, expected: float) -> None:
    """The same four decades, one every ten epochs."""
    assert _schedule(decay_step=10).learning_rate(progress) == pytest.approx(expected)


def test_steps_that_do_not_divide_the_decay_end_at_the_final_learning_rate() -> None:
    schedule = _schedule(decay_step=30)
    assert schedule.learning_rate(60) == pytest.approx(1e-5)
    assert schedule.learning_rate(90) == schedule.learning_rate(99.9) == pytest.approx(1e-6)


def test_published_mnist_schedule() -> None:
    schedule = Schedule(300, 0, 150, 150, 1e-3, 5e-6, 1.58)
    assert schedule.epsilon(75) == pytest.approx(0.79)
    assert schedule.learning_rate(225) == pytest.approx(math.sqrt(1e-3 * 5e-6))


def test_targets_are_never_overshot() -> None:
    schedule = _schedule()
    values = [schedule.epsilon(step / 7) for step in range(700)]
    assert max(values) == 0.8
    assert values == sorted(values)
    assert all(0 <= schedule.mixing(step / 7) <= 1 for step in range(700))


def test_continuous() -> None:
    schedule = _schedule()
    for step in range(1, 10_000):
        before, after = (step - 1) / 100, step / 100
        assert abs(schedule.epsilon(after) - schedule.epsilon(before)) <= 0.8 / 40 / 100 * 1.001
        ratio = schedule.learning_rate(after) / schedule.learning_rate(before)
        assert 10 ** (-0.001001) <= ratio <= 1


def test_ramp_that_ends_where_it_starts() -> None:
    assert ramp(4.99, 5, 5) == 0
    assert ramp(5, 5, 5) == 1
    assert ramp(0, 0, 0) == 1


@pytest.mark.parametrize("decay_epoch", [100, 250])
@pytest.mark.parametrize("decay_step", [0, 10])
def test_decay_after_the_end_is_no_decay(decay_epoch: float, decay_step: float) -> None:
    schedule = _schedule(decay_epoch=decay_epoch, decay_step=decay_step)
    assert {schedule.learning_rate(progress) for progress in (0, 50, 99.99, 100)} == {1e-2}


def test_equal_learning_rates() -> None:
    assert exponential_decay(7, 0.1, 0.1, 2, 10) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 0),
        ("warmup_epochs", -1),
        ("warmup_epochs", 51),
        ("warmup_epochs", math.nan),
        ("ramp_epochs", math.nan),
        ("decay_epoch", -1),
        ("decay_epoch", math.nan),
        ("decay_step", -1),
        ("ramp", "cosine"),
        ("decay_step", math.nan),
        ("decay_step", math.inf),
        ("initial_lr", 0.0),
        ("initial_lr", math.nan),
        ("initial_lr", math.inf),
        ("final_lr", -1e-3),
        ("final_lr", math.inf),
        ("epsilon_train", 0.0),
        ("epsilon_train", -0.5),
        ("epsilon_train", math.nan),
        ("epsilon_train", math.inf),
    ],
)
def test_refused(key: str, value: float) -> None:
    with pytest.raises(ValueError, match="Expected"):
        _schedule(**{key: value})
