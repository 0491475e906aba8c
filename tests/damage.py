"""Damages files as disks do."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor


def flip_bit(path: Path, tensor: Tensor) -> None:
    """Flip one bit of a tensor, where a file holds it."""
    content = bytearray(path.read_bytes())
    place = content.index(tensor.detach().numpy().tobytes())
    content[place + 2] ^= 4
    path.write_bytes(content)
