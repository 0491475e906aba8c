"""Images in memory, on their way to a device, and errors about files."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor


class MissingDataError(FileNotFoundError):
    """A data set that is not where it was looked for."""


def missing(name: str, looked: Iterable[Path], files: str, failure: Exception | None) -> MissingDataError:
    """Return the error that says where a data set was looked for, why no download came (`failure`), and what to do."""
    reason = "" if failure is None else f", and a download was not possible ({failure})"
    return MissingDataError(
        f"{name} was not found; looked in {', '.join(map(str, looked))}{reason}. "
        f"Put {files} into a folder and type data.root=FOLDER."
    )


class CorruptDataError(ValueError):
    """A data file that is damaged or not what its name says."""


@dataclass(frozen=True)
class Split:
    """Images and their labels.

    Attributes:
        images: (N, C, H, W), uint8 or float32 in [0, 1].
        labels: (N,), int64.

    Raises:
        CorruptDataError: for other shapes.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dim() != 4 or self.labels.shape != (self.images.shape[0],):
            raise CorruptDataError(
                "Expected images (N, C, H, W) and N labels, "
                f"got shapes {tuple(self.images.shape)} and {tuple(self.labels.shape)}."
            )

    def __len__(self) -> int:
        return self.images.shape[0]

    def __getitem__(self, index: int | Tensor | slice | list[int]) -> tuple[Tensor, Tensor]:
        """Return images as float32 in [0, 1], and labels."""
        return to_pixels(self.images[index]), self.labels[index]

    def rows(self, index: slice | list[int]) -> Self:
        """Return the images at `index` as another split."""
        return type(self)(self.images[index], self.labels[index])

    def first(self, count: int | None) -> Self:
        """Return the first `count` images, all when None."""
        return self.rows(slice(count))

    def to(self, device: torch.device) -> Self:
        """Return the same images and labels on a device."""
        return type(self)(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Stored:
    """A split whose images come as they are stored, 8-bit ones as such: less to send to a device."""

    split: Split

    def __getitem__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Return images (B, C, H, W) and labels (B,)."""
        chosen = sent(torch.tensor(indices, dtype=torch.int64), self.split.images.device)
        return self.split.images[chosen], self.split.labels[chosen]


@dataclass(frozen=True)
class Images:
    """A data set.

    Attributes:
        train: training split.
        test: test split.
        num_classes: labels reach from 0 to one less.

    Raises:
        CorruptDataError: for a label out of range.
    """

    train: Split
    test: Split
    num_classes: int

    def __post_init__(self) -> None:
        for name, split in (("training", self.train), ("test", self.test)):
            least, most = map(int, split.labels.aminmax()) if len(split) else (0, 0)
            if least < 0 or most >= self.num_classes:
                raise CorruptDataError(
                    f"The {name} labels reach from {least} to {most}; expected 0 to {self.num_classes - 1}."
                )


def to_pixels(images: Tensor) -> Tensor:
    """Return images as float32 in [0, 1]; 8-bit ones are divided by 255."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on `device`, copied from pinned memory without waiting where that is a GPU."""
    if device.type != "cuda" or values.is_cuda:
        return values.to(device)
    pinned = values.pin_memory() if torch.cuda.is_available() else values
    return pinned.to(device, non_blocking=True)
