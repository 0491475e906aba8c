"""idx files: what is read, and what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from lipcert.data import MissingDataError, load_images
from lipcert.data.arrays import CorruptDataError
from lipcert.data.sources import find_idx_files, read_idx, read_split
from tests.data.idx_files import NAMES, idx_bytes, write_set


@pytest.mark.parametrize("shape", [(7,), (3, 5, 4), (0, 5, 4), (2, 3, 4, 5)])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_round_trip(tmp_path: Path, shape: tuple[int, ...], suffix: str) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape)
    path = tmp_path / f"images{suffix}"
    path.write_bytes(gzip.compress(idx_bytes(array)) if suffix else idx_bytes(array))
    tensor = read_idx(path)
    assert tensor.dtype == torch.uint8
    np.testing.assert_array_equal(tensor.numpy(), array)
    assert tensor.shape == shape


@pytest.mark.parametrize("length", [0, 1, 3, 4, 6, 8, 13, 15, 16, 17, 75])
def test_truncated(tmp_path: Path, length: int) -> None:
    """Cut within the magic number, within the header, within the data."""
    content = idx_bytes(np.ones((3, 5, 4)))
    assert length < len(content) == 76
    path = tmp_path / "cut"
    path.write_bytes(content[:length])
    with pytest.raises(CorruptDataError, match=str(path)):
        read_idx(path)


def test_bytes_to_spare(tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_bytes(idx_bytes(np.ones((3, 2))) + b"\0")
    with pytest.raises(CorruptDataError, match=r"long is truncated or damaged: expected 18 bytes.*got 19"):
        read_idx(path)


@pytest.mark.parametrize(
    "magic", [b"\0\0\x0d\3", b"\0\1\x08\3", b"\x1f\x8b\x08\0", b"<htm", b"\0\0\0\0"], ids=lambda magic: magic.hex()
)
def test_wrong_magic_number(tmp_path: Path, magic: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(magic + idx_bytes(np.ones((3, 5, 4)))[4:])
    with pytest.raises(CorruptDataError, match=r"other is not an idx file of unsigned bytes"):
        read_idx(path)


@pytest.mark.parametrize("damage", ["cut", "flipped", "checksum", "not gzip"])
def test_damaged_gzip(tmp_path: Path, damage: str) -> None:
    whole = gzip.compress(idx_bytes(np.random.default_rng(0).integers(0, 256, (30, 5, 4))))
    path = tmp_path / "images.gz"
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    checksum = bytearray(whole)
    checksum[-6] ^= 1
    path.write_bytes({"cut": whole[:-20], "flipped": flipped, "checksum": checksum, "not gzip": b"<html>"}[damage])
    with pytest.raises(CorruptDataError, match=r"images\.gz"):
        read_idx(path)


@pytest.mark.parametrize("compressed", [False, True])
def test_split(tmp_path: Path, compressed: bool) -> None:
    arrays = write_set(tmp_path, compressed)
    files = find_idx_files([tmp_path])
    assert files is not None
    for paths, prefix in ((files[:2], "train"), (files[2:], "t10k")):
        read = read_split(*paths)
        np.testing.assert_array_equal(read.images.numpy(), arrays[f"{prefix}_images"][:, None])
        np.testing.assert_array_equal(read.labels.numpy(), arrays[f"{prefix}_labels"])
        assert read.labels.dtype == torch.int64


def test_folder_needs_all_four_files(tmp_path: Path) -> None:
    half, whole = tmp_path / "half", tmp_path / "whole"
    write_set(half)
    write_set(whole, compressed=True)
    (half / NAMES[3]).unlink()
    assert find_idx_files([tmp_path / "none", half, whole]) == [whole / f"{name}.gz" for name in NAMES]
    assert find_idx_files([half]) is None
    with pytest.raises(MissingDataError, match=rf"MNIST was not found; looked in {half}"):
        load_images("mnist", half)


@pytest.mark.parametrize("labels", [np.arange(29) % 10, np.zeros((30, 1))])
def test_images_and_labels_that_do_not_match(tmp_path: Path, labels: np.ndarray) -> None:
    write_set(tmp_path, train_labels=labels)
    with pytest.raises(CorruptDataError, match=r"do not belong together.*30, 5, 4"):
        load_images("mnist", tmp_path)
