"""Tiny-ImageNet: 200 classes of 64x64 colour images, 100,000 to train on and 10,000 validation images as the test set.

The original archive is read as it is, or the folder it unpacks to; images are decoded once, into a file of tensors
beside it, which is mapped into memory and checked whenever it is loaded.
"""

import hashlib
import io
import logging
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import pooch
import torch
from filelock import FileLock
from PIL import Image
from torch import Tensor

from lipcert.data.arrays import CorruptDataError, Images, MissingDataError, Split, missing
from lipcert.data.download import DownloadError, download
from lipcert.data.tinyimagenet_layout import ANNOTATIONS, CLASSES, Tree, read_layout
from lipcert.system.errors import first_line
from lipcert.system.files import refuse_damaged
from lipcert.system.progress import progress

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
NAME = "tiny-imagenet-200"
SIZE = 64
CACHE, PARTIAL_CACHE = "images.pt", "images-partial.pt"
"""Decoded images, in a folder of their own."""
VERSION = 3
"""Of that file and of what is decoded how; another version is decoded again."""

logger = logging.getLogger(__name__)


def load_tiny_imagenet(root: Path | None, default_root: Path, partial: bool = False) -> Images:
    """Load Tiny-ImageNet from `root`, or from `default_root`, where it is downloaded to if it is not there.

    `partial`: of a folder, training images may be absent; `Images.absent` counts them.

    Raises:
        MissingDataError: saying where it was looked for and what to do.
        CorruptDataError: naming the file that is damaged, missing or left over.
    """
    top = default_root if root is None else root
    source = find_source(top)
    digest = None if source is None else source_digest(source, partial)
    kept = PARTIAL_CACHE if partial else CACHE
    place = hashlib.sha256(str(top.resolve()).encode()).hexdigest()[:12]
    folders = [top / f"{NAME}-arrays", default_root / f"{NAME}-arrays-{place}"]
    for folder in folders:
        with suppress(CorruptDataError):
            if (images := read_cache(folder / kept, digest)) is not None:
                return images
    if root is not None and source is None:
        raise _missing(top)
    cache = _writable(folders) / kept
    with FileLock(cache.with_name(".lock")):
        try:
            images = read_cache(cache, digest)  # another process may have been faster
        except CorruptDataError as error:
            logger.warning("Images of Tiny-ImageNet are decoded again, since the file is damaged. %s", error)
            images = None
        return _prepare(top, cache, partial) if images is None else images


def find_source(top: Path) -> Path | None:
    """Return the archive or the unpacked folder below `top`, None where there is neither."""
    archive = top / f"{NAME}.zip"
    if archive.is_file():
        return archive
    return next((folder for folder in (top, top / NAME) if (folder / "train").is_dir()), None)


def source_digest(source: Path, partial: bool = False) -> str:
    """Return what tells one source from another without reading its images; of a partial one, their names count."""
    if source.is_file():
        return f"md5 {MD5}"
    lists = [source / name for name in (CLASSES, ANNOTATIONS)]
    joined = b"\0".join(path.read_bytes() if path.is_file() else b"" for path in lists)
    if partial:
        joined += "\0".join(sorted(path.name for path in source.glob("train/*/images/*"))).encode()
    return f"lists sha256 {hashlib.sha256(joined).hexdigest()}"


def _prepare(top: Path, cache: Path, partial: bool) -> Images:
    """Fetch the archive if nothing is below `top`, decode all images and keep them in the file `cache`."""
    source = find_source(top)
    if source is None:
        source = top / f"{NAME}.zip"
        try:
            download(URL, source, MD5)
        except DownloadError as error:
            raise _missing(top, error) from error
    elif source.is_file() and pooch.file_hash(str(source), "md5") != MD5:
        raise CorruptDataError(
            f"{source} is not the archive published at {URL}: expected MD5 {MD5}. Delete it and fetch it again."
        )
    with ExitStack() as opened:
        archived = source.is_file()
        tree = zipfile.Path(opened.enter_context(zipfile.ZipFile(source)), f"{NAME}/") if archived else source
        images = _decode_all(tree, partial)
    write_cache(cache, source_digest(source, partial), images)
    return images


def _missing(top: Path, failure: Exception | None = None) -> MissingDataError:
    places = (top / f"{NAME}.zip", top / NAME, top)
    return missing("Tiny-ImageNet", places, f"{URL}, or the folder it unpacks to,", failure)


def decode(tree: Tree, name: str) -> Tensor:
    """Return an image as (3, 64, 64) uint8; grey-scale ones are made colour.

    Raises:
        CorruptDataError: naming the file, if it cannot be read or has another size.
    """
    try:
        with Image.open(io.BytesIO((tree / name).read_bytes())) as image:
            pixels = np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise CorruptDataError(
            f"{tree / name} is no readable image ({type(error).__name__}). Fetch the data again."
        ) from error
    if pixels.shape != (SIZE, SIZE, 3):
        height, width = pixels.shape[:2]
        raise CorruptDataError(f"{tree / name}: expected an image of {SIZE}x{SIZE}, got {width}x{height}.")
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _decode_all(tree: Tree, partial: bool) -> Images:
    """Decode all images into memory: 1.4 GB, which later loads map from the file instead."""
    *splits, num_classes, absent = read_layout(tree, partial)
    total, decoded = sum(map(len, splits)), []
    with progress("Decoding Tiny-ImageNet", total) as advance, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for listed in splits:
            images = torch.empty(len(listed), 3, SIZE, SIZE, dtype=torch.uint8)
            for place, image in zip(
                images, pool.map(lambda name: decode(tree, name), [name for name, _ in listed]), strict=True
            ):
                place.copy_(image)
                advance()
            decoded.append(Split(images, torch.tensor([label for _, label in listed])))
    return Images(decoded[0], decoded[1], num_classes, absent=absent)


def _writable(folders: list[Path]) -> Path:
    """Return the first folder in which files can be made, itself made if need be; PermissionError if there is none."""
    for folder in folders:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK | os.X_OK):
                return folder
    raise PermissionError(f"Expected one of {', '.join(map(str, folders))} to be writable, to keep decoded images in.")


def read_cache(path: Path, source: str | None) -> Images | None:
    """Load the images kept at `path`; None where there are none, or some made from another `source` than is given.

    They are mapped copy on write: processes share their pages, and whoever changes one leaves the file alone.

    Raises:
        CorruptDataError: naming the file, if it is not what was written.
    """
    if not path.is_file():
        return None
    try:
        refuse_damaged(path)
        kept = torch.load(path, mmap=True, weights_only=True)
        if kept["version"] != VERSION or source not in (None, kept["source"]):
            return None
        return Images(Split(*kept["train"]), Split(*kept["test"]), kept["num_classes"], absent=kept["absent"])
    except Exception as error:  # unpickling damaged bytes ends in any of them
        raise CorruptDataError(f"{path}: {first_line(error)}") from error


def write_cache(path: Path, source: str, images: Images) -> None:
    """Write images under a temporary name, then rename the file; raise OSError naming it if there is no room."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    train, test = ((split.images, split.labels) for split in (images.train, images.test))
    kept = {"version": VERSION, "source": source, "train": train, "test": test}
    kept |= {"num_classes": images.num_classes, "absent": images.absent}
    try:
        torch.save(kept, temporary)
        os.replace(temporary, path)
    except RuntimeError as error:  # what torch's writer makes of a full disk
        raise OSError(f"{path} could not be written ({first_line(error)}).") from error
    finally:
        temporary.unlink(missing_ok=True)
