"""Decoded images kept on disk in one file of 8-bit tensors, mapped into memory and checked whenever it is loaded."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from lipcert.data.arrays import CorruptDataError, Images, Split
from lipcert.system.errors import first_line
from lipcert.system.files import damage

VERSION = 2
"""Of this format and of what is decoded how; another version is decoded again."""


def read_cache(path: Path, source: str | None) -> Images | None:
    """Load the images kept at `path`; None where there are none, or some made from another source.

    They are mapped copy on write: processes share their pages, and whoever changes one leaves the file alone.

    Args:
        path: the file.
        source: digest of the data the images must come from; None accepts any.

    Raises:
        CorruptDataError: naming the file, if it is not what was written.
    """
    if not path.is_file():
        return None
    try:
        reason = damage(path)
        if reason is not None:
            raise ValueError(reason)
        kept = torch.load(path, mmap=True, weights_only=True)
        if kept["version"] != VERSION or source not in (None, kept["source"]):
            return None
        return Images(Split(*kept["train"]), Split(*kept["test"]), kept["num_classes"])
    except Exception as error:  # unpickling damaged bytes ends in any of them
        raise CorruptDataError(f"{path}: {first_line(error)}") from error


def write_cache(path: Path, source: str, images: Images) -> None:
    """Write images under a temporary name, then rename the file.

    Raises:
        OSError: naming the file, if there is no room.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    train, test = ((split.images, split.labels) for split in (images.train, images.test))
    kept = {"version": VERSION, "source": source, "train": train, "test": test, "num_classes": images.num_classes}
    try:
        torch.save(kept, temporary)
        os.replace(temporary, path)
    except RuntimeError as error:  # what torch's writer makes of a full disk
        raise OSError(f"{path} could not be written ({first_line(error)}).") from error
    finally:
        temporary.unlink(missing_ok=True)
