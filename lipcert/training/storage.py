"""Checkpoints on disk: written whole or not at all, the one before kept, checked when read."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from lipcert.system.files import damage, write_bytes

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"

NEEDED = ("epoch", "lipcert", "state_dict", "pytorch-lightning_version")
"""Keys without which training cannot go on."""


class WholeCheckpoints(TorchCheckpointIO):
    """Writes checkpoints whole or not at all, and keeps the last but one as `previous.ckpt`.

    Each is written under a temporary name beside the checkpoint, synced to disk and renamed; Lightning's own
    writing moves a file from the system's temporary folder, which is a copy where that is another disk.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Save a checkpoint.

        Raises:
            OSError: naming the checkpoint; those that were there before are whole.
        """
        if storage_options is not None:
            raise TypeError(f"Expected no storage options, got {storage_options!r}.")
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()  # torch's own writer turns a full disk into a RuntimeError
        torch.save(checkpoint, content)
        write_bytes(path, content.getbuffer(), path.with_name(PREVIOUS) if path.name == LAST else None)


class DamagedCheckpointError(ValueError):
    """A file that is no whole checkpoint of lipcert."""


def read_state(path: Path) -> dict[str, Any]:
    """Read a checkpoint that training can go on from, on the CPU, checksums verified.

    Raises:
        DamagedCheckpointError: where checksums fail, it does not load or lacks what is needed.
    """
    try:
        reason = damage(path)
        if reason is not None:
            raise DamagedCheckpointError(reason)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(checkpoint, dict):
            raise DamagedCheckpointError(f"it holds a {type(checkpoint).__name__}, no dict")
        missing = [key for key in NEEDED if key not in checkpoint]
        int(checkpoint.get("epoch", 0))
    except (FileNotFoundError, PermissionError, MemoryError, DamagedCheckpointError):
        raise
    except Exception as error:  # unpickling damaged bytes ends in any of them
        raise DamagedCheckpointError((str(error).splitlines() or [type(error).__name__])[0]) from error
    if missing:
        raise DamagedCheckpointError(f"it lacks {', '.join(missing)}")
    return checkpoint
