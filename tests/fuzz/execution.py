"""A network as executed: threads, memory formats and sizes of batches that change the order of its sums."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product, starmap
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Way(NamedTuple):
    """How a network is executed."""

    threads: int
    batch_size: int
    channels_last: bool


ONE_THREAD, TWO_THREADS = (tuple(starmap(Way, product((count,), (1, 7, 20), (False, True)))) for count in (1, 2))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Executed:
    """Runs a network in its own precision in several ways."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.dtype = next(tensor.dtype for tensor in model.parameters())
        self.channels_last = copy.deepcopy(model).to(memory_format=torch.channels_last)

    @torch.no_grad()
    def logits(self, points: Tensor) -> Tensor:
        """Return logits of points (P, ...), all in one batch, as float64, (P, K)."""
        return self.model(points.to(self.dtype)).double()

    @torch.no_grad()
    def run(self, points: Tensor, way: Way) -> Tensor:
        """Return logits of points (P, ...) executed in that way, as float64, (P, K)."""
        converted, model = points.to(self.dtype), self.model
        if way.channels_last and points.dim() == 4:
            converted, model = converted.to(memory_format=torch.channels_last), self.channels_last
        with threads(way.threads):
            return torch.cat([model(batch) for batch in converted.split(way.batch_size)]).double()


def smallest_margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the least z_y - z_j of logits (..., K), labels (...); -infinity where a logit is NaN."""
    own = labels.unsqueeze(-1)
    least = (logits.gather(-1, own) - logits).scatter(-1, own, torch.inf).amin(dim=-1)
    return torch.where(logits.isnan().any(dim=-1), -torch.inf, least.nan_to_num(-torch.inf))
