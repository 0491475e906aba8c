"""Images in memory, in an order drawn by seed, on their way to a device, and errors about files."""

from collections.abc import Iterable, Sequence
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
    """A split whose images come as they are stored, 8-bit ones as such: less to send to a device.

    `extra`: images that are mixed in; their numbers follow those of the split.
    """

    split: Split
    extra: Split | None = None

    def __getitem__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Return images (B, C, H, W) and labels (B,), those of the split first."""
        if self.extra is None:
            return self._stored(self.split, indices)
        count = len(self.split)
        own = self._stored(self.split, [each for each in indices if each < count])
        added = self._stored(self.extra, [each - count for each in indices if each >= count])
        return torch.cat((own[0], added[0])), torch.cat((own[1], added[1]))

    @staticmethod
    def _stored(split: Split, indices: list[int]) -> tuple[Tensor, Tensor]:
        chosen = sent(torch.tensor(indices, dtype=torch.int64), split.images.device)
        return split.images[chosen], split.labels[chosen]


@dataclass(frozen=True)
class Images:
    """A data set.

    Attributes:
        train: training split.
        test: test split.
        num_classes: labels reach from 0 to one less.
        validation: held-out split, where the data set comes with one.
        absent: training images that were published and that this copy lacks.

    Raises:
        CorruptDataError: for a label out of range, or images of different shapes.
    """

    train: Split
    test: Split
    num_classes: int
    validation: Split | None = None
    absent: int = 0

    def __post_init__(self) -> None:
        splits = {"training": self.train, "test": self.test, "validation": self.validation or self.train}
        for name, split in splits.items():
            shape, expected = tuple(split.images.shape[1:]), tuple(self.train.images.shape[1:])
            if shape != expected:
                raise CorruptDataError(f"The {name} images are of shape {shape}, those to train on of {expected}.")
            least, most = map(int, split.labels.aminmax()) if len(split) else (0, 0)
            if least < 0 or most >= self.num_classes:
                raise CorruptDataError(
                    f"The {name} labels reach from {least} to {most}; expected 0 to {self.num_classes - 1}."
                )


TEST_SHARE = 5
"""Where nothing says which images are to test, one in so many of each class is, always the same ones."""


def with_test_images(splits: Sequence[Split], num_classes: int) -> Images:
    """Return a data set of images to train on, to test and held-out ones; the latter, or both, may be missing."""
    train, *others = splits
    if others:
        return Images(train, others[0], num_classes, others[1] if len(others) > 1 else None)
    order, count = drawn(train.labels, seed=0), len(train) // TEST_SHARE
    return Images(train.rows(order[count:].tolist()), train.rows(order[:count].tolist()), num_classes)


def classes_of(labels: Tensor) -> int:
    """Return the number of classes; raise CorruptDataError unless labels, (N,), are 0 to one less, each there."""
    found = labels.unique().tolist()
    if len(found) < 2 or found != list(range(len(found))):
        said = ", ".join(map(str, found[:12])) + ", ..." * (len(found) > 12)
        raise CorruptDataError(f"Expected labels 0, 1, ... without a gap, got {said}; number the classes anew.")
    return len(found)


def drawn(labels: Tensor, seed: int) -> Tensor:
    """Return the numbers of all labels, (N,), in an order drawn by `seed` in which classes are spread evenly.

    Among the first so many, and the last, each class has its share, up to one image.
    """
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(labels), generator=generator)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    counts = labels.bincount()
    starts = torch.rand(len(counts), dtype=torch.float64, generator=generator)
    places = torch.cat([(torch.arange(count) + start) / count for count, start in zip(counts, starts, strict=True)])
    return by_class[places.argsort(stable=True)]


def to_pixels(images: Tensor) -> Tensor:
    """Return images as float32 in [0, 1]; 8-bit ones are divided by 255."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on `device`, copied from pinned memory without waiting where that is a GPU."""
    if device.type != "cuda" or values.is_cuda:
        return values.to(device)
    pinned = values.pin_memory() if torch.cuda.is_available() else values
    return pinned.to(device, non_blocking=True)
