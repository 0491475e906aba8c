"""Random crops and flips of whole batches, one draw an image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def random_crop_and_flip(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Shift each image by up to `padding` pixels (black outside) and mirror half of them.

    `images`: (B, C, H, W); `generator`: on the CPU.
    """
    batch, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    shifts = torch.randint(0, 2 * padding + 1, (2, batch), generator=generator)
    mirrored = torch.rand(batch, generator=generator) < 0.5
    rows = shifts[0, :, None] + torch.arange(height)
    columns = torch.arange(width).expand(batch, width)
    columns = shifts[1, :, None] + torch.where(mirrored[:, None], width - 1 - columns, columns)
    index = torch.arange(batch)[:, None, None]
    rows, columns = rows[:, :, None].to(images.device), columns[:, None, :].to(images.device)
    return padded.permute(0, 2, 3, 1)[index.to(images.device), rows, columns].permute(0, 3, 1, 2)
