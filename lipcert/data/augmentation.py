"""Random crops and flips of whole batches, one draw an image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lipcert.data.transfer import sent


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
