"""Tiny-ImageNet: 200 classes of 64x64 colour images, 100,000 to train on and 10,000 validation images as the test set.

The original archive is read as it is, or the folder it unpacks to; images are decoded once, into arrays beside it.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pooch
from filelock import FileLock
from PIL import Image

from lipcert.data.array_cache import (
    CONTENTS,
    VERSION,
    DamagedCacheError,
    read_cache,
    writable_folder,
    write_array,
)
from lipcert.data.arrays import CorruptDataError, Images, MissingDataError
from lipcert.data.download import DownloadError, download
from lipcert.data.progress import Advance, progress
from lipcert.data.tinyimagenet_layout import ANNOTATIONS, CLASSES, read_layout
from lipcert.data.tree import Tree, open_tree
from lipcert.system.files import write_json

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
NAME = "tiny-imagenet-200"
SIZE = 64
CHUNK = 1000
"""Images decoded at a time."""

logger = logging.getLogger(__name__)


def load_tiny_imagenet(root: Path | None, default_root: Path) -> Images:
    """Load Tiny-ImageNet from `root`, or from `default_root`, where it is downloaded to if it is not there.

    Raises:
        MissingDataError: saying where it was looked for and what to do.
        CorruptDataError: naming the file that is damaged, missing or left over.
    """
    top = default_root if root is None else root
    caches = cache_folders(top, default_root)
    source = find_source(top)
    images = _cached(caches, source)
    if images is not None:
        return images
    if root is not None and source is None:
        raise _missing(top)
    folder = writable_folder(caches)
    with FileLock(folder / ".lock"):
        images = _cached([folder], find_source(top), warn=False)  # another process may have been faster
        return _prepare(top, folder) if images is None else images


def find_source(top: Path) -> Path | None:
    """Return the archive or the unpacked folder below `top`, None where there is neither."""
    archive = top / f"{NAME}.zip"
    if archive.is_file():
        return archive
    return next((folder for folder in (top, top / NAME) if (folder / "train").is_dir()), None)


def cache_folders(top: Path, default_root: Path) -> list[Path]:
    """Return where decoded images of `top` may lie: beside it, else below `default_root`."""
    place = hashlib.sha256(str(top.resolve()).encode()).hexdigest()[:12]
    return [top / f"{NAME}-arrays", default_root / f"{NAME}-arrays-{place}"]


def source_digest(source: Path) -> str:
    """Return what tells one source from another without reading its images."""
    if source.is_file():
        return f"md5 {MD5}"
    lists = [source / name for name in (CLASSES, ANNOTATIONS)]
    joined = b"\0".join(path.read_bytes() if path.is_file() else b"" for path in lists)
    return f"lists sha256 {hashlib.sha256(joined).hexdigest()}"


def _prepare(top: Path, folder: Path) -> Images:
    """Fetch the archive if nothing is below `top`, decode all images into `folder` and load them."""
    source = find_source(top)
    if source is None:
        source = _fetch(top)
    elif source.is_file() and pooch.file_hash(str(source), "md5") != MD5:
        raise CorruptDataError(
            f"{source} is not the archive published at {URL}: expected MD5 {MD5}. Delete it and fetch it again."
        )
    digest = source_digest(source)
    with open_tree(source, NAME) as tree:
        _decode_all(tree, folder, digest)
    images = read_cache(folder, digest)
    if images is None:
        raise CorruptDataError(f"{source} changed while it was being decoded; try again.")
    return images


def _cached(folders: list[Path], source: Path | None, warn: bool = True) -> Images | None:
    digest = None if source is None else source_digest(source)
    for folder in folders:
        try:
            images = read_cache(folder, digest)
        except DamagedCacheError as error:
            if warn:
                logger.warning("Decoded images of Tiny-ImageNet are damaged and left aside. %s", error)
            continue
        if images is not None:
            return images
    return None


def _fetch(top: Path) -> Path:
    try:
        download(URL, top / f"{NAME}.zip", MD5)
    except DownloadError as error:
        raise _missing(top, str(error)) from error
    return top / f"{NAME}.zip"


def _missing(top: Path, reason: str | None = None) -> MissingDataError:
    looked = ", ".join(str(path) for path in (top / f"{NAME}.zip", top / NAME, top))
    download_failed = f", and a download was not possible ({reason})" if reason else ""
    return MissingDataError(
        f"Tiny-ImageNet was not found; looked in {looked}{download_failed}. "
        f"Put {URL}, or the folder it unpacks to, into a folder and type data.root=FOLDER."
    )


def decode(tree: Tree, name: str) -> np.ndarray:
    """Return an image as (3, 64, 64) uint8; grey-scale ones are made colour.

    Raises:
        CorruptDataError: naming the file, if it cannot be read or has another size.
    """
    content = tree.read(name)
    try:
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise CorruptDataError(
            f"{tree.locate(name)} is no readable image ({type(error).__name__}). Fetch the data again."
        ) from error
    if pixels.shape != (SIZE, SIZE, 3):
        height, width = pixels.shape[:2]
        raise CorruptDataError(f"{tree.locate(name)}: expected an image of {SIZE}x{SIZE}, got {width}x{height}.")
    return pixels.transpose(2, 0, 1)


def _decode_all(tree: Tree, folder: Path, source: str) -> None:
    """Decode all images into arrays below `folder`; the file that says so is written last."""
    layout = read_layout(tree)
    (folder / CONTENTS).unlink(missing_ok=True)
    contents: dict[str, object] = {"version": VERSION, "source": source, "num_classes": len(layout.wnids)}
    splits = (("train", layout.train), ("test", layout.test))
    total, done = sum(len(listed) for _, listed in splits), 0
    with progress("Decoding Tiny-ImageNet") as advance:
        for name, listed in splits:
            names, labels = [each for each, _ in listed], np.array([label for _, label in listed], dtype=np.int64)
            parts = _decoded(tree, names, advance, done, total)
            contents[name] = {
                "images": write_array(folder / f"{name}_images.npy", (len(names), 3, SIZE, SIZE), parts),
                "labels": write_array(folder / f"{name}_labels.npy", labels.shape, [labels]),
            }
            done += len(names)
    write_json(folder / CONTENTS, contents)


def _decoded(tree: Tree, names: list[str], advance: Advance, done: int, total: int) -> Iterator[np.ndarray]:
    """Yield decoded images in order, many at a time."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(names), CHUNK):
            part = list(pool.map(partial(decode, tree), names[start : start + CHUNK]))
            advance(done + start + len(part), total)
            yield np.stack(part)
