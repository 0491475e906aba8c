"""Writes idx files, byte by byte."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx_bytes(array: np.ndarray) -> bytes:
    """Return the idx file of an array of unsigned bytes."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_set(folder: Path, compressed: bool = False, **replaced: np.ndarray) -> dict[str, np.ndarray]:
    """Write the four files of a small MNIST and return their arrays; `replaced` by the names' first two parts."""
    generator = np.random.default_rng(1)
    arrays = {
        "train_images": generator.integers(0, 256, (30, 5, 4)),
        "train_labels": np.arange(30) % 10,
        "t10k_images": generator.integers(0, 256, (12, 5, 4)),
        "t10k_labels": np.arange(12) % 10,
        **replaced,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(NAMES, arrays.values(), strict=True):
        content = idx_bytes(array)
        if compressed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return arrays
