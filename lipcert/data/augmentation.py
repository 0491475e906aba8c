"""Random crops and flips of whole batches, one draw an image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lipcert.data.transfer import sent


@dataclass(frozen=True)
class Draws:
    """One draw an image: shifts in rows and columns, (2, B), and whether it is mirrored, (B,)."""

    shifts: Tensor
    mirrored: Tensor

    def __getitem__(self, images: slice) -> Draws:
        """Return the draws of some images."""
        return Draws(self.shifts[:, images], self.mirrored[images])

    def to(self, device: torch.device) -> Draws:
        """Return the draws on a device."""
        return Draws(sent(self.shifts, device), sent(self.mirrored, device))


def draw(batch: int, padding: int, generator: torch.Generator | None) -> Draws:
    """Draw shifts of up to `padding` pixels and mirror half of the images; `generator`: on the CPU."""
    shifts = torch.randint(0, 2 * padding + 1, (2, batch), generator=generator)
    return Draws(shifts, torch.rand(batch, generator=generator) < 0.5)


def crop_and_flip(images: Tensor, padding: int, draws: Draws) -> Tensor:
    """Shift and mirror each image, (B, C, H, W), as drawn; black comes in from outside."""
    batch, _, height, width = images.shape
    padded, draws = F.pad(images, (padding,) * 4), draws.to(images.device)
    across = torch.arange(width, device=images.device)
    rows = draws.shifts[0, :, None] + torch.arange(height, device=images.device)
    columns = draws.shifts[1, :, None] + torch.where(draws.mirrored[:, None], width - 1 - across, across)
    index = torch.arange(batch, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
