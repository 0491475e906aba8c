"""MNIST's idx files, plain or gzipped."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lipcert.data.arrays import CorruptDataError, MissingDataError, Split

NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
UNSIGNED_BYTE = 0x08


def read_idx(path: Path) -> Tensor:
    """Read an idx file of unsigned bytes: two zero bytes, type, number of dimensions, sizes, data.

    Raises:
        CorruptDataError: if it is not such a file, or has more or fewer bytes than its header says.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise CorruptDataError(f"Cannot read {path}: {error}. Delete the file and fetch it again.") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != UNSIGNED_BYTE:
        raise CorruptDataError(f"{path} is not an idx file of unsigned bytes.")
    header = 4 + 4 * content[3]
    if len(content) < header:
        raise CorruptDataError(f"{path} is truncated: its header needs {header} bytes, it has {len(content)}.")
    shape = tuple(int(size) for size in np.frombuffer(content[4:header], dtype=">u4"))
    expected = header + math.prod(shape)
    if len(content) != expected:
        raise CorruptDataError(
            f"{path} is truncated or damaged: expected {expected} bytes for shape {shape}, got {len(content)}."
        )
    return torch.from_numpy(np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape).copy())


def find_idx_folder(folders: list[Path]) -> Path | None:
    """Return the first folder that holds all four files, plain or gzipped."""
    wanted = [name for pair in NAMES.values() for name in pair]
    for folder in folders:
        if all(_find(folder, name) is not None for name in wanted):
            return folder
    return None


def _find(folder: Path, name: str) -> Path | None:
    candidates = (folder / name, folder / f"{name}.gz")
    return next((path for path in candidates if path.is_file()), None)


def read_split(folder: Path, split: str) -> Split:
    """Read one split ("train" or "test") as images (N, 1, H, W) uint8 and labels.

    Raises:
        MissingDataError, CorruptDataError: naming the file.
    """
    paths = []
    for name in NAMES[split]:
        path = _find(folder, name)
        if path is None:
            raise MissingDataError(f"Neither {name} nor {name}.gz is in {folder}.")
        paths.append(path)
    images, labels = read_idx(paths[0]), read_idx(paths[1])
    if images.dim() != 3 or labels.dim() != 1 or len(images) != len(labels):
        raise CorruptDataError(
            f"{paths[0]} and {paths[1]} do not belong together: shapes {tuple(images.shape)}, {tuple(labels.shape)}."
        )
    return Split(images.unsqueeze(1), labels.long())
