"""The Lightning data module: splits, batches, random crops and flips of whole batches, and how they reach a device."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from lipcert.data.arrays import Split, Stored, sent, to_pixels
from lipcert.data.batches import GlobalBatches
from lipcert.data.sources import load_images
from lipcert.system.errors import refuse_below

LARGEST_SHARE = 0.25
"""Of a GPU's free memory, at most, goes to the training images."""

CHOICES = ("auto", "true", "false")
"""Of `data.on_device`."""


def draw(batch: int, padding: int, generator: torch.Generator | None) -> Tensor:
    """Draw for each image shifts in rows and columns of up to `padding` pixels, and whether it is mirrored: (3, B).

    `generator`: on the CPU, as what is drawn.
    """
    shifts = torch.randint(0, 2 * padding + 1, (2, batch), generator=generator)
    return torch.cat((shifts, torch.rand(1, batch, generator=generator) < 0.5))


def crop_and_flip(images: Tensor, padding: int, draws: Tensor) -> Tensor:
    """Shift and mirror each image, (B, C, H, W), as drawn; black comes in from outside."""
    batch, _, height, width = images.shape
    down, right, mirrored = sent(draws, images.device).unsqueeze(2)
    across = torch.arange(width, device=images.device)
    rows = down + torch.arange(height, device=images.device)
    columns = right + torch.where(mirrored > 0, width - 1 - across, across)
    index = torch.arange(batch, device=images.device)[:, None, None]
    pixels = F.pad(images, (padding,) * 4).permute(0, 2, 3, 1)
    return pixels[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


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


class ImageDataModule(pl.LightningDataModule):
    """Serves a data set in shuffled training batches and ordered validation and test batches.

    Batches are (images, labels).

    Args:
        name: a key of `SOURCES`.
        batch_size: over all devices; split evenly between them.
        root: folder of the files, None for the usual places.
        limit_train, limit_test: use the first so many images, None for all.
        validation: hold out the last so many training images; 0 for none.
        crop_padding: augment by random crops with this padding and flips; 0 for none.
        seed: of the shuffling; with the epoch it decides the order of images.
        on_device: whether training images lie on the device, as they are stored: "true", "false", or "auto": where it
            is a GPU with room for them. Elsewhere a GPU gets them from pinned memory, a batch ahead.

    Raises:
        ValueError: for sizes out of range, or another `on_device`.
    """

    def __init__(
        self,
        name: str,
        batch_size: int,
        root: str | Path | None = None,
        limit_train: int | None = None,
        limit_test: int | None = None,
        validation: int = 0,
        crop_padding: int = 0,
        seed: int = 0,
        on_device: str = "auto",
    ) -> None:
        super().__init__()
        self.on_device = str(on_device).lower()
        if self.on_device not in CHOICES:
            raise ValueError(f"Expected `data.on_device` to be one of {list(CHOICES)}, got {on_device!r}.")
        refuse_below(1, {"batch_size": batch_size, "data.limit_train": limit_train, "data.limit_test": limit_test})
        refuse_below(0, {"data.validation": validation, "data.crop_padding": crop_padding})
        self.batch_size = batch_size
        self.crop_padding = crop_padding
        self.seed = seed
        images = load_images(name, root)
        if validation >= len(images.train):
            raise ValueError(f"`data.validation`={validation} leaves none of {len(images.train)} training images.")
        held_out = len(images.train) - validation
        self.train = images.train.first(held_out).first(limit_train)
        self.validation = images.train.rows(slice(held_out, None))
        self.test = images.test.first(limit_test)
        self.num_classes = images.num_classes

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def _ranks(self) -> tuple[int, int]:
        return (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)

    def train_dataloader(self) -> Prefetched | DataLoader[tuple[Tensor, ...]]:
        """Return batches of images, as they are stored, and labels.

        From the device where the images lie there, else from the host; the same ones either way.
        """
        device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        batches = GlobalBatches(len(self.train), self.batch_size, *self._ranks(), seed=self.seed)
        if belongs_on_device(self.train.images, device, self.on_device):
            return self._loader(self.train.to(device), batches)
        loader = self._loader(self.train, batches, pinned=device.type == "cuda")
        return Prefetched(loader) if device.type == "cuda" else loader

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]] | list[Any]:
        """Return batches of held-out images and labels; an empty list where none are held out."""
        batches = GlobalBatches(len(self.validation), self.batch_size, *self._ranks())
        return self._loader(self.validation, batches) if len(self.validation) else []

    def _loader(self, split: Split, batches: GlobalBatches, pinned: bool = False) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(
            Stored(split),  # type: ignore[arg-type]
            batch_size=None,  # the sampler yields whole batches
            sampler=batches,
            pin_memory=pinned,
            generator=torch.Generator().manual_seed(self.seed),
        )

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Turn stored images into pixels in [0, 1] and augment training batches, on the device.

        An image's draw depends on seed, step and place in the global batch alone.

        Args:
            batch: images and labels, on the device.
            dataloader_idx: is not used.
        """
        images, labels = to_pixels(batch[0]), batch[1]
        if self.trainer is None or not self.trainer.training or self.crop_padding == 0:
            return images, labels
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.trainer.global_step) * 4099)
        ranks, rank = self._ranks()
        draws = draw(self.batch_size, self.crop_padding, generator)[:, rank::ranks][:, : len(images)]
        return crop_and_flip(images, self.crop_padding, draws), labels
