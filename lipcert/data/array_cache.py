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

VERSION = 1
"""Of this format and of what is decoded how; another version is decoded again."""
CONTENTS = "contents.json"
CHUNK = 1 << 24


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
        splits = [_read_split(folder, name, contents[name]) for name in ("train", "test")]
        return Images(splits[0], splits[1], contents["num_classes"])
    except DamagedCacheError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedCacheError(f"{path}: {error}") from error


def _read_split(folder: Path, name: str, expected: dict[str, Any]) -> Split:
    images = _read_array(folder / f"{name}_images.npy", expected["images"])
    labels = _read_array(folder / f"{name}_labels.npy", expected["labels"])
    return Split(torch.from_numpy(images), torch.from_numpy(labels))


def _read_array(path: Path, expected: dict[str, Any]) -> np.ndarray:
    """Map an array; `c` (copy on write) shares its pages between processes and leaves the file alone."""
    try:
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DamagedCacheError(f"{path}: {error}") from error
    found = {"shape": list(array.shape), "dtype": str(array.dtype)}
    if found != {key: expected[key] for key in found}:
        raise DamagedCacheError(f"{path}: expected {expected}, got {found}")
    if _checksum(array) != expected["crc32"]:
        raise DamagedCacheError(f"{path}: its checksum is not the one it was written with")
    return array


def _checksum(array: np.ndarray) -> int:
    flat, crc = array.reshape(-1).view(np.uint8), 0
    for start in range(0, len(flat), CHUNK):
        crc = zlib.crc32(flat[start : start + CHUNK].data, crc)
    return crc


def write_array(path: Path, shape: tuple[int, ...], parts: Iterable[np.ndarray]) -> dict[str, Any]:
    """Write an array part by part under a temporary name, then rename it; return what `read_cache` expects of it.

    `parts`: arrays of one dtype that make up `shape` along its first axis.

    Raises:
        ValueError: if they make up less or more.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    count, crc, dtype = 0, 0, np.dtype(np.uint8)
    try:
        with temporary.open("wb") as file:
            for part in parts:
                if count == 0:
                    dtype = part.dtype
                    header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(file, header)
                content = np.ascontiguousarray(part).tobytes()
                file.write(content)
                count, crc = count + len(part), zlib.crc32(content, crc)
        if count != shape[0]:
            raise ValueError(f"Expected {shape[0]} entries for {path}, got {count}.")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return {"shape": list(shape), "dtype": str(dtype), "crc32": crc}


def writable_folder(folders: list[Path]) -> Path:
    """Return the first folder in which files can be made, itself made if need be.

    Raises:
        PermissionError: if there is none.
    """
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise PermissionError(f"Expected one of {', '.join(map(str, folders))} to be writable, to keep decoded images in.")
