"""Global batches, the same for any number of processes, and each process's share of them."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.utils.data import Sampler


@dataclass(eq=False)
class GlobalBatches(Sampler[list[int]]):
    """Yields one rank's indices of every global batch: rank r holds images r, r + R, r + 2R, ... of it.

    Every rank gets as many batches. Where the last has fewer images than there are ranks, a rank without one of its own
    gets an empty batch in order, and the first image of a shuffled one, to take part in the step with weight 0.

    Attributes:
        count: images in all.
        batch_size: images of a global batch; the last may be smaller.
        ranks, rank: number of processes, and which of them this is.
        seed: with the epoch, it alone decides the order; None for images in order.

    Raises:
        ValueError: when `ranks` do not divide `batch_size`.
    """

    count: int
    batch_size: int
    ranks: int = 1
    rank: int = 0
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.batch_size % self.ranks:
            raise ValueError(f"`batch_size`={self.batch_size} cannot be split over {self.ranks} devices.")
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch; Lightning calls it before each."""
        if self.seed is None:
            self.order = torch.arange(self.count)
        else:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self.order = torch.randperm(self.count, generator=generator)

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.order.split(self.batch_size):
            own = batch[self.rank :: self.ranks]
            yield (own if len(own) or self.seed is None else batch[:1]).tolist()

    def share(self, batch_index: int) -> tuple[int, int]:
        """Return `ranks` times the number of this rank's images of a batch, and the number of all its images.

        Their quotient is the factor on a rank's mean loss that makes the mean of gradients over ranks the mean over the
        global batch.
        """
        batch = min(self.batch_size, self.count - batch_index * self.batch_size)
        return self.ranks * len(range(self.rank, batch, self.ranks)), batch
