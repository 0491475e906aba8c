"""One vector for each training image of one linear map: taken, put back, merged over processes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MERGED_AT_A_TIME = 2**24
"""Entries that are summed over processes at a time."""


class VectorTable:
    """Unit vectors of length `size` for `count` images; a row of zeros stands for an image without one.

    A plain tensor, not a buffer: processes that train together hold different rows until `merge`.
    """

    def __init__(self, count: int, size: int, dtype: torch.dtype, device: torch.device) -> None:
        self.vectors = torch.zeros(count, size, dtype=dtype, device=device)

    def take(self, images: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors of `images`, (B, size), and whether there is one, (B,); `like`: dtype and device."""
        rows = self.vectors[images.to(self.vectors.device)]
        return rows.to(like), rows.any(dim=1).to(like.device)

    def put(self, images: Tensor, vectors: Tensor) -> None:
        """Keep `vectors`, (B, ...) of any length, for `images`; those that died or hold NaN change nothing."""
        place = images.to(self.vectors.device)
        wide = vectors.detach().flatten(1).to(device=self.vectors.device, dtype=torch.float32)
        lengths = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
        alive = (lengths > 0) & lengths.isfinite()
        unit = torch.where(alive, wide / lengths, 0).to(self.vectors)
        self.vectors[place] = torch.where(alive, unit, self.vectors[place])

    def merge(self, own: Tensor, changed: Tensor, sum_over_ranks: Callable[[Tensor], Tensor]) -> None:
        """Take over from each process the rows that are its own.

        Args:
            own: (count,), bool: rows that this process speaks for, no other does.
            changed: (count,), bool: rows that any process speaks for.
            sum_over_ranks: sums a float32 tensor over processes.
        """
        step = max(1, MERGED_AT_A_TIME // self.vectors.shape[1])
        for start in range(0, len(self.vectors), step):
            part = self.vectors[start : start + step]
            mine, any_one = (each[start : start + step, None].to(part.device) for each in (own, changed))
            summed = sum_over_ranks(torch.where(mine, part.float(), 0)).to(part)
            part.copy_(torch.where(any_one, summed, part))
