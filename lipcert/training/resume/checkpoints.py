"""Checkpoints: written atomically, the one before kept, checked when read."""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import ModelCheckpoint

from lipcert.system.errors import first_line
from lipcert.system.files import refuse_damaged, write_bytes
from lipcert.training.processes import is_first_process

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"

NEEDED = ("epoch", "lipcert", "state_dict", "pytorch-lightning_version")
"""Keys without which training cannot go on."""


class AtomicCheckpoints(TorchCheckpointIO):
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
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()  # torch's own writer turns a full disk into a RuntimeError
        torch.save(checkpoint, content)
        write_bytes(path, content.getbuffer(), path.with_name(PREVIOUS) if path.name == LAST else None)


class DamagedCheckpointError(ValueError):
    """A file that is no whole checkpoint of lipcert."""


def read_state(path: Path, description: dict[str, Any] | None = None) -> dict[str, Any]:
    """Read a checkpoint that training can go on from, on the CPU, checksums verified.

    Raises:
        ValueError: where it is not of the training that is described, see `check_resumable`.
        DamagedCheckpointError: where checksums fail, it does not load or lacks what is needed.
    """
    try:
        refuse_damaged(path)
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        missing = [key for key in NEEDED if key not in checkpoint]
        if missing:
            raise ValueError(f"it lacks {', '.join(missing)}")
        int(checkpoint["epoch"])
    except (FileNotFoundError, PermissionError, MemoryError):
        raise
    except Exception as error:  # unpickling damaged bytes ends in any of them
        raise DamagedCheckpointError(first_line(error)) from error
    if description is not None:
        check_resumable(checkpoint, description)
    return checkpoint


def check_resumable(checkpoint: Mapping[str, Any], description: dict[str, Any]) -> None:
    """Raise ValueError unless a checkpoint is of the data, model and method described, and of a kind that goes on."""
    saved = checkpoint.get("lipcert")
    if saved != description:
        raise ValueError(f"The checkpoint holds {saved}, but this run trains {description}.")
    starts = (checkpoint.get("warm_start") or {"name": "shared"})["name"]  # of norm estimates, in earlier versions
    if starts != "shared":
        raise ValueError(
            f"The checkpoint was trained with warm_start={starts}, which lipcert has no more; train anew, or certify "
            "its weights by python -m lipcert.certify."
        )


class BestCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint whose score and file a resumed run takes over, in its own folder, a new or a moved one."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        score, old = state_dict.get("best_model_score"), Path(state_dict.get("best_model_path") or "")
        new = Path(self.dirpath or "") / old.name
        if score is None or not (new.is_file() or old.is_file()):
            return
        if is_first_process() and not new.is_file():
            new.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(new, old.read_bytes())
        names = dict.fromkeys(("best_model_path", "kth_best_model_path"), str(new))
        super().load_state_dict({**state_dict, **names, "dirpath": self.dirpath, "best_k_models": {str(new): score}})
