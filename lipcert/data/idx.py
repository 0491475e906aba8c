"""MNIST's idx files, plain or gzipped."""

import gzip
import math
import zlib
from pathlib import Path

import torch
from torch import Tensor

from lipcert.data.arrays import CorruptDataError, Split

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
MAGIC = b"\0\0\x08"
"""Two zero bytes, and the type of unsigned bytes."""


def read_idx(path: Path) -> Tensor:
    """Read an idx file of unsigned bytes: two zero bytes, type, number of dimensions, sizes, data.

    Raises:
        CorruptDataError: if it is not such a file, or has more or fewer bytes than its header says.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise CorruptDataError(f"Cannot read {path}: {error}. Delete the file and fetch it again.") from error
    if len(content) < 4 or content[:3] != MAGIC:
        raise CorruptDataError(f"{path} is not an idx file of unsigned bytes.")
    header = 4 + 4 * content[3]
    shape = tuple(int.from_bytes(content[start : start + 4], "big") for start in range(4, header, 4))
    expected = header + math.prod(shape)
    if len(content) != expected:
        raise CorruptDataError(
            f"{path} is truncated or damaged: expected {expected} bytes for shape {shape}, got {len(content)}."
        )
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)[header:].view(shape)


def find_idx_files(folders: list[Path]) -> list[Path] | None:
    """Return the four files, plain or gzipped, in the order of `NAMES`, of the first folder that holds them all."""
    for folder in folders:
        found = [path for name in NAMES if (path := _find(folder, name))]
        if len(found) == len(NAMES):
            return found
    return None


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def read_split(images: Path, labels: Path) -> Split:
    """Read images as (N, 1, H, W) uint8, and their labels.

    Raises:
        CorruptDataError: naming the file.
    """
    pixels, classes = read_idx(images), read_idx(labels)
    if pixels.dim() != 3 or classes.dim() != 1 or len(pixels) != len(classes):
        raise CorruptDataError(
            f"{images} and {labels} do not belong together: shapes {tuple(pixels.shape)}, {tuple(classes.shape)}."
        )
    return Split(pixels.unsqueeze(1), classes.long())
