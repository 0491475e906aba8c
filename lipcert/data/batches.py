"""Global batches, the same for any number of processes, and each process's share of them."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.utils.data import Sampler


@dataclass(eq=False)
class GlobalBatches(Sampler[list[int]]):
    """Yields one rank's indices of every global batch: rank r holds images r, r + R, r + 2R, ... of it.

    An epoch serves each of the `count` images once. With extra ones every batch is filled up at a ratio, by images
    drawn with replacement, which are numbered from `count` on and come last.

    Every rank gets as many batches. Where the last has fewer images than there are ranks, a rank without one of its own
    gets an empty batch in order, and the first image of a shuffled one, to take part in the step with weight 0.

    Attributes:
        count: images in all.
        batch_size: images of a global batch, extra ones included; the last may be smaller.
        ranks, rank: number of processes, and which of them this is.
        seed: with the epoch, it alone decides the order; None for images in order.
        extra: number of extra images.
        ratio: extra images for each other one in a batch.

    Raises:
        ValueError: when `ranks` do not divide `batch_size`, or when a batch would hold extra images alone, or none.
    """

    count: int
    batch_size: int
    ranks: int = 1
    rank: int = 0
    seed: int | None = None
    extra: int = 0
    ratio: float = 0.0

    def __post_init__(self) -> None:
        if self.batch_size % self.ranks:
            raise ValueError(f"`batch_size`={self.batch_size} cannot be split over {self.ranks} devices.")
        self._own = round(self.batch_size / (1 + self.ratio)) if self.extra else self.batch_size
        if self.extra and not 0 < self._own < self.batch_size:
            raise ValueError(
                f"`batch_size`={self.batch_size} cannot be mixed at `data.extra.ratio`={self.ratio}: it would hold "
                f"{self._own} images of the data set; choose a larger batch_size or another ratio."
            )
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch; Lightning calls it before each."""
        if self.seed is None:
            self.order = torch.arange(self.count)
        else:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self.order = torch.randperm(self.count, generator=generator)
            if self.extra:
                drawn = torch.randint(self.extra, (len(self), self.batch_size - self._own), generator=generator)
                self._added = self.count + drawn

    def __len__(self) -> int:
        return -(-self.count // self._own)

    def __iter__(self) -> Iterator[list[int]]:
        for number, batch in enumerate(self.order.split(self._own)):
            if self.extra:
                batch = torch.cat((batch, self._added[number, : self._mixed_into(len(batch))]))
            own = batch[self.rank :: self.ranks]
            yield (own if len(own) or self.seed is None else batch[:1]).tolist()

    def _mixed_into(self, own: int) -> int:
        """Return how many extra images join so many others: in a last, smaller batch as many as the ratio asks for."""
        return own * (self.batch_size - self._own) // self._own

    def share(self, batch_index: int) -> tuple[int, int]:
        """Return `ranks` times the number of this rank's images of a batch, and the number of all its images.

        Their quotient is the factor on a rank's mean loss that makes the mean of gradients over ranks the mean over the
        global batch.
        """
        batch = min(self._own, self.count - batch_index * self._own)
        batch += self._mixed_into(batch)
        return self.ranks * len(range(self.rank, batch, self.ranks)), batch
