"""Decoded images kept on disk as 8-bit arrays, mapped into memory and checked whenever they are loaded."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lipcert.data.arrays import CorruptDataError, Images, Split
from lipcert.system.files import write_json

VERSION = 2
"""Of this format and of what is decoded how; another version is decoded again."""
CONTENTS = "contents.json"
"""Names the arrays' source and checksums; written last."""
ARRAYS = ("train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy")


class DamagedCacheError(CorruptDataError):
    """Arrays that are not what their contents file says."""


def read_cache(folder: Path, source: str | None) -> Images | None:
    """Load the arrays kept in `folder`; None where there are none, or some made from another source.

    `source`: digest of the data the arrays must come from; None accepts any.

    Raises:
        DamagedCacheError: naming the file.
    """
    path = folder / CONTENTS
    if not path.is_file():
        return None
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
        if contents["version"] != VERSION or source not in (None, contents["source"]):
            return None
        return _load(folder, contents)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedCacheError(f"{path}: {error}") from error


def write_cache(
    folder: Path, source: str, num_classes: int, splits: Iterable[tuple[Iterable[np.ndarray], list[int]]]
) -> Images:
    """Write the arrays, each under a temporary name and then renamed, at last the file that says so; load them.

    `splits`: training and test images, part by part, with the labels of all of them.
    """
    (folder / CONTENTS).unlink(missing_ok=True)
    names = iter(ARRAYS)
    for parts, labels in splits:
        _write_array(folder / next(names), len(labels), parts)
        _write_array(folder / next(names), len(labels), [np.array(labels, dtype=np.int64)])
    checksums = {name: _checksum(folder / name) for name in ARRAYS}
    contents = {"version": VERSION, "source": source, "num_classes": num_classes, "crc32": checksums}
    write_json(folder / CONTENTS, contents)
    return _load(folder, contents)


def _write_array(path: Path, count: int, parts: Iterable[np.ndarray]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            for part in parts:
                if file.tell() == 0:
                    header = {"descr": part.dtype.str, "fortran_order": False, "shape": (count, *part.shape[1:])}
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(part.tobytes())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _load(folder: Path, contents: dict[str, Any]) -> Images:
    """Map the arrays; `c` (copy on write) shares pages between processes and leaves the files alone."""
    for name in ARRAYS:
        if _checksum(folder / name) != contents["crc32"][name]:
            raise ValueError(f"{name} is not what was written; its checksum is another")
    mapped = (torch.from_numpy(np.load(folder / name, mmap_mode="c", allow_pickle=False)) for name in ARRAYS)
    train, train_labels, test, test_labels = mapped
    return Images(Split(train, train_labels), Split(test, test_labels), contents["num_classes"])


def _checksum(path: Path) -> int:
    return zlib.crc32(np.memmap(path, mode="r").data) if path.stat().st_size else 0
