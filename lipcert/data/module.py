"""The Lightning data module: splits, batches, random crops and flips of whole batches, and how they reach a device."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from lipcert.data.arrays import Images, Split, Stored, drawn, sent, to_pixels
from lipcert.data.batches import GlobalBatches
from lipcert.data.npz import ExtraImages
from lipcert.data.sources import load_images
from lipcert.data.transforms import build_transform, transformed
from lipcert.system.errors import refuse_below

LARGEST_SHARE = 0.25
"""Of a GPU's free memory, at most, goes to the training images."""

CHOICES = {"on_device": ("auto", "true", "false"), "draw": ("stratified", "first")}
"""Of settings of `data`."""


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


def belongs_on_device(size: int, device: torch.device, choice: str) -> bool:
    """Return whether training images of so many bytes are to be kept on `device`.

    `choice`: "true" and "false" say so; "auto" where it is a GPU and they take at most `LARGEST_SHARE` of what is free.
    """
    if choice == "auto":
        return device.type == "cuda" and size <= LARGEST_SHARE * torch.cuda.mem_get_info(device)[0]
    return choice == "true"


def split_off(images: Images, validation: float, limit: int | None, seed: int | None) -> tuple[Split, Split]:
    """Return images to train on, in the order of the data set, and held-out ones.

    Args:
        images: what they are taken from.
        validation: number of held-out images, a share of all where it is below 1; where the data set comes with
            some, these are taken instead.
        limit: train on so many at most.
        seed: draws both, of each class its share; None: the first are trained on, the last held out.

    Raises:
        ValueError: where nothing is left to train on.
    """
    train = images.train
    own = images.validation if validation else None
    count = 0 if own else round(validation * (len(train) if validation < 1 else 1))
    if count >= len(train):
        raise ValueError(f"`data.validation`={validation:g} leaves none of {len(train)} training images.")
    kept = len(train) - count
    if seed is None or min(kept, limit or kept) == len(train):
        return train.first(kept).first(limit), own or train.rows(slice(kept, None))
    order = drawn(train.labels, seed)
    chosen, held_out = (rows.sort().values.tolist() for rows in (order[:kept][:limit], order[kept:]))
    return train.rows(chosen), own or train.rows(held_out)


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
        limit_train: train on so many images, None for all.
        limit_test: use the first so many test images, None for all.
        validation: hold out so many training images, a share of all if below 1; 0 for none.
        draw: which are trained on, which held out: `stratified`, drawn by seed, of each class its share; `first`: the
            first and the last.
        crop_padding: augment by random crops with this padding and flips; 0 for none.
        transforms: transforms of torchvision, or what makes them (`_target_`), by name; they change each training image
            by itself, before crops and flips.
        extra: `path` of an .npz file of images to mix into every batch, and their `ratio` to the others.
        settings: of the data set, see `load_images`.
        seed: of the shuffling; with the epoch it decides the order of images.
        on_device: whether training images lie on the device, as they are stored: "true", "false", or "auto": where it
            is a GPU with room for them. Elsewhere a GPU gets them from pinned memory, a batch ahead.

    Raises:
        ValueError: for sizes out of range, or another choice than there is.
    """

    def __init__(
        self,
        name: str,
        batch_size: int,
        root: str | Path | None = None,
        limit_train: int | None = None,
        limit_test: int | None = None,
        validation: float = 0,
        crop_padding: int = 0,
        seed: int = 0,
        on_device: str = "auto",
        draw: str = "stratified",
        transforms: Mapping[str, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        self.on_device = str(on_device).lower()
        for key, value in {"on_device": self.on_device, "draw": draw}.items():
            if value not in CHOICES[key]:
                raise ValueError(f"Expected `data.{key}` to be one of {list(CHOICES[key])}, got {value!r}.")
        refuse_below(1, {"batch_size": batch_size, "data.limit_train": limit_train, "data.limit_test": limit_test})
        refuse_below(0, {"data.validation": validation, "data.crop_padding": crop_padding})
        self.batch_size = batch_size
        self.crop_padding = crop_padding
        self.seed = seed
        self.source = {"name": name, "root": root and str(Path(root).expanduser().resolve()), **settings}
        images = load_images(name, root, **settings)
        self.train, self.validation = split_off(images, validation, limit_train, seed if draw == "stratified" else None)
        self.test = images.test.first(limit_test)
        self.num_classes = images.num_classes
        there, published = len(images.train), len(images.train) + images.absent
        self.called = f"{name} ({there:,} of {published:,} training images)" if images.absent else name
        self.transform = build_transform(transforms, self.train)
        self.extra = ExtraImages.read(**extra, like=images) if extra and extra.get("path") else None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint says of the images, so that others find them again."""
        return {"source": self.source, "extra": self.extra.description if self.extra else None}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare what a checkpoint says, `state_dict`, with these images.

        Raises:
            ValueError: for a checkpoint that was trained with other extra images.
        """
        before, now = (state["extra"] and state["extra"]["sha256"] for state in (state_dict, self.state_dict()))
        if before != now:
            raise ValueError(f"The checkpoint was trained with extra images of SHA-256 {before}, these have {now}.")

    def _ranks(self) -> tuple[int, int]:
        return (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)

    def train_dataloader(self) -> Prefetched | DataLoader[tuple[Tensor, ...]]:
        """Return batches of images, as they are stored, and labels.

        From the device where the images lie there, else from the host; the same ones either way.
        """
        device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        added, ratio = (self.extra.split, self.extra.ratio) if self.extra else (None, 0.0)
        batches = GlobalBatches(
            len(self.train), self.batch_size, *self._ranks(), self.seed, len(added) if added else 0, ratio
        )
        size = self.train.images.nbytes + (added.images.nbytes if added else 0)
        if belongs_on_device(size, device, self.on_device):
            return self._loader(Stored(self.train.to(device), added and added.to(device)), batches)
        loader = self._loader(Stored(self.train, added), batches, pinned=device.type == "cuda")
        return Prefetched(loader) if device.type == "cuda" else loader

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]] | list[Any]:
        """Return batches of held-out images and labels; an empty list where none are held out."""
        batches = GlobalBatches(len(self.validation), self.batch_size, *self._ranks())
        return self._loader(Stored(self.validation), batches) if len(self.validation) else []

    def _loader(self, images: Stored, batches: GlobalBatches, pinned: bool = False) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(
            images,  # type: ignore[arg-type]
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
        if self.trainer is None or not self.trainer.training or (self.crop_padding == 0 and self.transform is None):
            return images, labels
        seed, (ranks, rank) = (self.seed * 1_000_003 + self.trainer.global_step) * 4099, self._ranks()
        if self.transform is not None:
            images = transformed(images, self.transform, range(seed + 1 + rank, seed + 4099, ranks))
        if self.crop_padding == 0:
            return images, labels
        generator = torch.Generator().manual_seed(seed)
        draws = draw(self.batch_size, self.crop_padding, generator)[:, rank::ranks][:, : len(images)]
        return crop_and_flip(images, self.crop_padding, draws), labels
