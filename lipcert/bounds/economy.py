"""Which work a training step can leave out: box passes and masked norms that would tell nothing new.

A box pass and a ball bound the same neurons, a masked norm and the whole one the same layer; either alone is sound.
Where the dearer of the two gains next to nothing it is left out, and measured again on a few images some steps later.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

FEW = slice(0, 8)
"""The images of a batch on which gains are measured."""


def mean_over_processes(value: Tensor) -> float:
    """Return the mean of a number over all processes, the same on each."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        value = value.clone()
        torch.distributed.all_reduce(value)
        value = value / torch.distributed.get_world_size()
    return value.item()


@dataclass
class _Decision:
    pays: bool
    steps_left: int


@dataclass
class Economy:
    """Remembers for each piece of work whether it pays.

    Attributes:
        every: training steps between two measurements of a gain.
        worth: the smallest gain that pays: the fraction by which intervals or a norm shrink on average.

    Where no gradient is recorded all work is done: certificates, validation and tests never economise.

    Raises:
        ValueError: if `every` is below 1.
    """

    every: int = 20
    worth: float = 0.01
    _decisions: dict[str, _Decision] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"Expected `every` >= 1, got {self.every}.")

    def pays(self, work: str, gain: Callable[[], Tensor]) -> bool:
        """Return whether the work of that name pays; `gain` measures it, (), on a few images. NaN pays."""
        if not torch.is_grad_enabled():
            return True
        decision = self._decisions.get(work)
        if decision is None or decision.steps_left == 0:
            with torch.no_grad():
                measured = mean_over_processes(gain())
            decision = self._decisions[work] = _Decision(not measured < self.worth, self.every)
        decision.steps_left -= 1
        return decision.pays

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, so that a resumed run decides alike."""
        return {work: (each.pays, each.steps_left) for work, each in self._decisions.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the decisions of a checkpoint; `state` is that of `state_dict`."""
        self._decisions = {work: _Decision(bool(pays), int(left)) for work, (pays, left) in state.items()}


def pays(economy: Economy | None, work: str, gain: Callable[[], Tensor]) -> bool:
    """Return whether optional work is to be done, as it always is without an economy; `gain` as for `Economy.pays`."""
    return economy is None or economy.pays(work, gain)
