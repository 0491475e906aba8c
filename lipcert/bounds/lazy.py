"""Values that are computed when they are first asked for: a training step asks for few of the boxes there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


class Lazy(Generic[T]):
    """A value with a graph if one was recorded where it was promised, whoever asks for it first.

    Args:
        compute: makes it.
        kept: False for what is cheap to make and large to keep: made anew for everyone who asks, without a graph for
            those who record none.
    """

    def __init__(self, compute: Callable[[], T], kept: bool = True) -> None:
        self._compute: Callable[[], T] | None = compute
        self._kept = kept
        self._records_graph = torch.is_grad_enabled()
        self._computed: list[T] = []

    @property
    def value(self) -> T:
        """The value, computed once if it is kept; what a kept one was computed from is let go of.

        Raises:
            RuntimeError: where a kept one was asked for before, and could not be computed.
        """
        if self._compute is not None and not self._kept:
            with torch.set_grad_enabled(self._records_graph and torch.is_grad_enabled()):
                return self._compute()
        if self._computed:
            return self._computed[0]
        if self._compute is None:
            raise RuntimeError("This value failed to be computed when it was first asked for.")
        compute, self._compute = self._compute, None
        with torch.set_grad_enabled(self._records_graph):
            self._computed.append(compute())
        return self._computed[0]

    @classmethod
    def of(cls, value: T) -> Lazy[T]:
        """Return `value`, which is there already."""
        return cls(lambda: value)
