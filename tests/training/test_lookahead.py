"""Lookahead: its weights by hand, its state, and the learning rate that reaches what it wraps."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from lipcert.training.lookahead import Lookahead

TARGET = torch.tensor([1.0, -2.0, 3.0])


def _optimizer(weights: nn.Parameter, base: type[torch.optim.Optimizer] = torch.optim.Adam) -> Lookahead:
    return Lookahead([weights], partial(base), lr=0.1, every=3, share=0.25)


def _train(weights: nn.Parameter, optimizer: Lookahead, steps: int) -> Tensor:
    for _ in range(steps):
        optimizer.zero_grad()
        (weights - TARGET).square().sum().backward()
        optimizer.step()
    return weights.detach().clone()


def test_slow_weights_follow_fast_ones() -> None:
    weights = nn.Parameter(torch.zeros(3))
    found = _train(weights, _optimizer(weights, torch.optim.SGD), 7)
    slow = fast = torch.zeros(3)
    for step in range(1, 8):
        fast = fast - 0.1 * 2 * (fast - TARGET)
        if step in (3, 6):
            slow = fast = 0.75 * slow + 0.25 * fast
    torch.testing.assert_close(found, fast)


@pytest.mark.parametrize("steps", [2, 3, 4])
def test_training_goes_on_from_a_state(steps: int) -> None:
    whole, part, later = (nn.Parameter(torch.zeros(3)) for _ in range(3))
    expected = _train(whole, _optimizer(whole), 9)
    first = _optimizer(part)
    later.data.copy_(_train(part, first, steps))
    second = _optimizer(later)
    second.load_state_dict(first.state_dict())
    assert torch.equal(_train(later, second, 9 - steps), expected)


def test_learning_rates_reach_the_optimizer() -> None:
    weights = nn.Parameter(torch.zeros(3))
    optimizer = _optimizer(weights)
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.param_groups[0]["lr"] = 0.0
    assert not _train(weights, optimizer, 4).any()


@pytest.mark.parametrize(("name", "value"), [("every", 0), ("share", 0.0), ("share", 1.5)])
def test_what_is_out_of_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"`optimizer.{name}`"):
        Lookahead([nn.Parameter(torch.zeros(1))], torch.optim.Adam, lr=0.1, **{name: value})  # type: ignore[arg-type]
