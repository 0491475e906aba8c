"""Schedules as pure functions of training progress, so that a resumed run needs no state of theirs.

Progress t is counted in epochs and grows within an epoch, step by step.
"""

import math
from dataclasses import dataclass
from typing import Any, Self

from lipcert.system.errors import refuse_below
from lipcert.system.schema import ScheduleConfig

RAMPS = ("linear", "logarithmic")


def ramp(progress: float, warmup: float, end: float) -> float:
    """Return the factor that grows linearly from 0 at epoch `warmup` to 1 at epoch `end` (eqs 28-29)."""
    if progress < warmup:
        return 0.0
    if progress >= end:
        return 1.0
    return (progress - warmup) / (end - warmup)


def exponential_decay(progress: float, initial: float, final: float, start: float, total: float) -> float:
    """Return `initial` until epoch `start`, then decay exponentially to `final` at epoch `total` (eq. 27)."""
    if progress <= start:
        return initial
    return float(initial * (final / initial) ** ((progress - start) / (total - start)))


@dataclass
class Schedule(ScheduleConfig):
    """Epochs and targets of a run's schedules (Table 3).

    Attributes:
        epochs: T, total epochs.
        warmup_epochs: epochs on the clean loss alone.
        ramp_epochs: n, the epoch at which epsilon and lambda reach their targets.
        decay_epoch: m, the epoch at which the learning rate starts to decay.
        initial_lr, final_lr: learning rates before and at the end of the decay.
        epsilon_train: target epsilon, in pixels of [0, 1].
        decay_step: epochs between two drops of the learning rate; 0 for a decay without steps.
        ramp: how epsilon rises: `linear`, or `logarithmic`, by which exp(epsilon) rises linearly (GloRo's).

    Raises:
        ValueError: for values that make no schedule.
    """

    def __post_init__(self) -> None:
        refuse_below(1, {"schedule.epochs": self.epochs})
        refuse_below(0, {"schedule.decay_epoch": self.decay_epoch})
        if not 0 <= self.warmup_epochs <= self.ramp_epochs:
            raise ValueError(
                "Expected 0 <= `schedule.warmup_epochs` <= `schedule.ramp_epochs`, "
                f"got {self.warmup_epochs} and {self.ramp_epochs}."
            )
        if not 0 <= self.decay_step < math.inf:
            raise ValueError(f"Expected `schedule.decay_step` >= 0 and finite, got {self.decay_step}.")
        if not (0 < self.initial_lr < math.inf and 0 < self.final_lr < math.inf):
            raise ValueError(f"Expected learning rates > 0 and finite, got {self.initial_lr} and {self.final_lr}.")
        if not 0 < self.epsilon_train < math.inf:
            raise ValueError(f"Expected `schedule.epsilon_train` > 0 and finite, got {self.epsilon_train}.")
        if self.ramp not in RAMPS:
            raise ValueError(f"Expected `schedule.ramp` to be {' or '.join(RAMPS)}, got {self.ramp!r}.")

    @classmethod
    def rising(cls, epochs: int, epsilon: float, **settings: Any) -> Self:
        """Return the default schedule: epsilon rises to 1.1 times `epsilon` over the first half, then the rate falls.

        `settings`: attributes that are to be others.
        """
        half, rates = epochs / 2, {"initial_lr": 1e-3, "final_lr": 5e-6}
        times = {"warmup_epochs": 0.0, "ramp_epochs": half, "decay_epoch": half}
        return cls(**{"epochs": epochs, "epsilon_train": 1.1 * epsilon, **times, **rates, **settings})

    def epsilon(self, progress: float) -> float:
        """Return epsilon at `progress` (eq. 28, or as the logarithm of what rises linearly)."""
        risen = ramp(progress, self.warmup_epochs, self.ramp_epochs)
        if self.ramp == "logarithmic" and risen < 1:
            return math.log1p(math.expm1(self.epsilon_train) * risen)
        return self.epsilon_train * risen

    def mixing(self, progress: float) -> float:
        """Return lambda at `progress` (eq. 29)."""
        return ramp(progress, self.warmup_epochs, self.ramp_epochs)

    def learning_rate(self, progress: float) -> float:
        """Return the learning rate at `progress` (eq. 27), or, during each step of the decay, its value at their end.

        So with `final_lr` = `initial_lr` / 2^8 and 80 epochs of decay in steps of 10, the rate halves at `decay_epoch`,
        then every 10 epochs, and is `final_lr` over the last 10 (section C.2).
        """
        start, step = min(self.decay_epoch, self.epochs), self.decay_step
        if step and progress >= start:
            progress = min(self.epochs, start + step * (math.floor((progress - start) / step) + 1))
        return exponential_decay(progress, self.initial_lr, self.final_lr, start, self.epochs)
