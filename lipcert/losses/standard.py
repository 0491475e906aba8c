"""Standard training: cross-entropy on clean images, alone or until epsilon rises."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

from lipcert.losses.objective import Objective, Setting

M = TypeVar("M")


class Standard:
    """Cross-entropy of clean logits; certifies nothing by itself, the reference of Table 5."""

    name = "standard"

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, setting: Setting) -> Objective:
        logits = model(images)
        return Objective(F.cross_entropy(logits, labels), logits)


Call = Callable[[M, nn.Module, Tensor, Tensor, Setting], Objective]


def after_warm_up(call: Call[M]) -> Call[M]:
    """Return a method's `call` with standard training in its place while epsilon is 0: a decorator of `__call__`."""

    @wraps(call)
    def with_warm_up(method: M, model: nn.Module, images: Tensor, labels: Tensor, setting: Setting) -> Objective:
        if setting.epsilon > 0:
            return call(method, model, images, labels, setting)
        return Standard()(model, images, labels, setting)

    return with_warm_up
