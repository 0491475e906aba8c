"""Global batches, the same for any number of processes, and each process's share of them."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Sampler


@dataclass(eq=False)
class GlobalBatches(Sampler[list[int]]):
    """Yields one rank's indices of every global batch, in order: rank r holds images r, r + R, r + 2R, ... of it.

    Every rank gets as many batches; the last may be empty on some.

    Attributes:
        count: images in all.
        batch_size: images of a global batch; the last may be smaller.
        ranks, rank: number of processes, and which of them this is.

    Raises:
        ValueError: when `ranks` do not divide `batch_size`.
    """

    count: int
    batch_size: int
    ranks: int = 1
    rank: int = 0

    def __post_init__(self) -> None:
        if self.batch_size % self.ranks:
            raise ValueError(f"`batch_size`={self.batch_size} cannot be split over {self.ranks} devices.")

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.order().split(self.batch_size):
            yield self.part(batch).tolist()

    def order(self) -> Tensor:
        """Return the indices of all images in the order in which they are served, (N,)."""
        return torch.arange(self.count)

    def part(self, batch: Tensor) -> Tensor:
        """Return this rank's indices of a global batch."""
        return batch[self.rank :: self.ranks]

    def share(self, batch_index: int) -> tuple[int, int]:
        """Return `ranks` times the number of this rank's images of a batch, and the number of all its images.

        Their quotient is the factor on a rank's mean loss that makes the mean of gradients over ranks the mean over the
        global batch.
        """
        batch = min(self.batch_size, self.count - batch_index * self.batch_size)
        return self.ranks * len(range(self.rank, batch, self.ranks)), batch


@dataclass(eq=False)
class ShuffledBatches(GlobalBatches):
    """Global batches in an order that depends on `seed` and `epoch` alone.

    A rank without an image of its own repeats the first of the batch, to take part in the step with weight 0.
    """

    seed: int = 0
    epoch: int = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch; Lightning calls it before each."""
        self.epoch = epoch

    def order(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return torch.randperm(self.count, generator=generator)

    def part(self, batch: Tensor) -> Tensor:
        return batch[:1] if len(batch) <= self.rank else super().part(batch)
