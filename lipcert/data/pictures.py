"""Pictures as pixels: greyscale or RGB of 8 bits, of one size; whatever else is refused."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from lipcert.data.arrays import CorruptDataError


def pixels(picture: Image.Image, image_size: int | None) -> Tensor:
    """Return the pixels of a picture, (1, H, W) or (3, H, W) uint8.

    `image_size`: pixels a side of the square that it is scaled and cropped to; None leaves it as it is.

    Raises:
        ValueError: for one that is animated, transparent, neither greyscale nor RGB, or not of 8 bits.
    """
    if getattr(picture, "is_animated", False) and picture.format != "MPO":  # of cameras, with a preview behind it
        raise ValueError("it is animated")
    if picture.mode.startswith(("I", "F")) or any("16" in str(tile[3]) for tile in getattr(picture, "tile", ())):
        raise ValueError("it has more than 8 bits a channel")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture if picture.mode == "LA" else picture.convert("RGBA")
        if picture.getextrema()[-1] != (255, 255):
            raise ValueError("it is transparent in places")
        picture = picture.convert(picture.mode[:-1])
    if picture.mode in ("1", "P"):
        picture = picture.convert("L" if picture.mode == "1" else "RGB")
    if picture.mode not in ("L", "RGB"):
        raise ValueError(f"expected greyscale or RGB, got {picture.mode}")
    if image_size is not None:
        picture = ImageOps.fit(picture, (image_size, image_size), Image.Resampling.BILINEAR)
    values = torch.from_numpy(np.array(picture))
    return values.unsqueeze(0) if values.dim() == 2 else values.permute(2, 0, 1).contiguous()


def stacked(pictures: Sequence[Tensor], channels: int | None, names: Sequence[str]) -> Tensor:
    """Return pictures (C, H, W) as one tensor, of 1 or 3 `channels`; None: greyscale where all pictures are.

    Raises:
        ValueError: for another number of channels.
        CorruptDataError: naming two pictures of different sizes.
    """
    if channels not in (None, 1, 3):
        raise ValueError(f"Expected `data.channels` to be 1 or 3, got {channels}.")
    wanted = channels or max(len(each) for each in pictures)
    for name, each in zip(names, pictures, strict=True):
        if each.shape[1:] != pictures[0].shape[1:] or each.dtype != pictures[0].dtype:
            raise CorruptDataError(
                f"{name} is {size_of(each)}, but {names[0]} is {size_of(pictures[0])}; "
                "set data.image_size=SIDE to scale and crop all pictures to squares."
            )
    return torch.stack([_with_channels(each, wanted) for each in pictures])


def size_of(picture: Tensor) -> str:
    """Return width, height and type of a picture (C, H, W) in words."""
    return f"{picture.shape[2]}x{picture.shape[1]} of {str(picture.dtype).removeprefix('torch.')}"


def _with_channels(picture: Tensor, channels: int) -> Tensor:
    if len(picture) == channels:
        return picture
    if len(picture) == 1:
        return picture.expand(channels, -1, -1)
    grey = Image.fromarray(picture.permute(1, 2, 0).numpy()).convert("L")
    return torch.from_numpy(np.array(grey)).unsqueeze(0)
