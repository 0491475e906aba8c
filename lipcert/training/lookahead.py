"""Lookahead (Zhang et al., 2019, "Lookahead Optimizer: k steps forward, 1 step back") around any optimizer."""

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn

from lipcert.system.errors import refuse_below

Stepper = torch.optim.Optimizer


class Lookahead(Stepper):
    """Every `every` steps slow weights go a `share` of the way to the fast ones, which go on from there.

    Args:
        params: to be trained.
        base: makes the optimizer of the fast weights from parameters and `lr`; its groups and states are this one's.
        lr: learning rate.
        every: steps between two of the slow weights.
        share: of the way, in (0, 1]; 1 is the optimizer alone.

    Raises:
        ValueError: for an `every` below 1, or another share.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        base: Callable[..., Stepper],
        lr: float,
        every: int = 6,
        share: float = 0.5,
    ) -> None:
        refuse_below(1, {"optimizer.every": every})
        if not 0 < share <= 1:
            raise ValueError(f"Expected 0 < `optimizer.share` <= 1, got {share}.")
        fast = list(params)
        self.base = base(fast, lr=lr)
        super().__init__(fast, self.base.defaults)
        self.every, self.share, self.steps = every, share, 0
        self.slow: list[Tensor] = [each.detach().clone() for each in fast]
        self.fast: list[Tensor] = [*fast]
        self._share_state()

    def _share_state(self) -> None:
        self.param_groups, self.state = self.base.param_groups, self.base.state

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take a step of the fast weights and, when it is time, one of the slow ones."""
        loss = self.base.step(closure) if closure else self.base.step()
        self.steps += 1
        if self.steps % self.every == 0:
            with torch.no_grad():
                torch._foreach_lerp_(self.slow, self.fast, self.share)
                torch._foreach_copy_(self.fast, self.slow)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimizer, the slow weights and the number of steps."""
        return {**self.base.state_dict(), "slow": list(self.slow), "steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state of `state_dict`."""
        self.base.load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        self._share_state()
        for each, loaded in zip(self.slow, state_dict["slow"], strict=True):
            each.copy_(loaded)
        self.steps = int(state_dict["steps"])
