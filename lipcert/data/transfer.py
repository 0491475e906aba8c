"""How data reach a device: no copy that the host has to wait for, the next batch made ready beside the present step."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

LARGEST_SHARE = 0.25
"""Of a GPU's free memory, at most, goes to the training images."""

CHOICES = ("auto", "true", "false")
"""Of `data.on_device`."""


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on `device`, copied from pinned memory without waiting where that is a GPU."""
    if device.type != "cuda" or values.is_cuda:
        return values.to(device)
    pinned = values.pin_memory() if torch.cuda.is_available() else values
    return pinned.to(device, non_blocking=True)


def belongs_on_device(images: Tensor, device: torch.device, choice: str) -> bool:
    """Return whether training images are to be kept on `device`.

    `choice`: "true" and "false" say so; "auto" where it is a GPU and they take at most `LARGEST_SHARE` of what is free.
    """
    if choice == "auto":
        return device.type == "cuda" and images.nbytes <= LARGEST_SHARE * torch.cuda.mem_get_info(device)[0]
    return choice == "true"


class Prefetched:
    """A loader whose next batch is made while the present one is trained on, in a thread of its own."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader

    @property
    def sampler(self) -> Sampler[Any]:
        """What decides the order; Lightning tells it the epoch."""
        return self.loader.sampler  # type: ignore[return-value]

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        end = object()
        with ThreadPoolExecutor(max_workers=1) as pool:
            batches = iter(self.loader)
            ahead = pool.submit(next, batches, end)
            while (batch := ahead.result()) is not end:
                ahead = pool.submit(next, batches, end)
                yield batch
