"""Pictures of one's own in folders, one a class, as torchvision's ImageFolder has them."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from lipcert.data.arrays import CorruptDataError, Images, MissingDataError, Split, drawn, with_test_images
from lipcert.data.pictures import pixels, stacked
from lipcert.system.errors import reason_of
from lipcert.system.progress import progress

BESIDE_TRAIN = ("test", "val", "valid", "validation")
"""Folders beside `train`: the first that is there holds the test images, the next one held-out images."""

Listed = list[tuple[str, int]]
"""Files, each with its label."""


@dataclass(frozen=True)
class PictureFiles:
    """The files of a folder of pictures, in the order of the images that are made of them.

    Classes are spread evenly over each list, so that the first so many images hold all of them. `others`: the pictures
    to test and, where there are any, held-out ones; empty where all pictures are in `train`.
    """

    classes: list[str]
    train: Listed
    others: list[Listed]


def list_pictures(root: Path) -> PictureFiles:
    """List the pictures in `root`/CLASS, or in `root`/train/CLASS and `root`/test/CLASS (or val).

    Raises:
        CorruptDataError: for fewer than two classes, a class without pictures, or classes that differ between splits.
    """
    top = root / "train" if (root / "train").is_dir() else root
    beside = [root / name for name in BESIDE_TRAIN if (root / name).is_dir()] if top != root else []
    if top != root and not beside:
        raise CorruptDataError(
            f"{root} holds train, but none of {', '.join(BESIDE_TRAIN)}; add one, or give data.root={top}, and a part "
            "of it is held back for testing."
        )
    classes = _folders(top)
    if len(classes) < 2:
        found = f"holds one class, {classes[0]}" if classes else "holds no folder"
        raise CorruptDataError(f"{top} {found}. Expected a folder for each class, of two or more, with pictures in it.")
    whole, others = _pictures(top, classes), []
    empty = sorted(set(range(len(classes))) - {label for _, label in whole})
    if empty:
        raise CorruptDataError(f"{top / classes[empty[0]]} holds no pictures. Expected a folder for each class.")
    for folder in beside:
        unknown = [each for each in _folders(folder) if each not in classes]
        if unknown:
            raise CorruptDataError(f"{folder / unknown[0]} holds a class that {top} does not have.")
        listed = _pictures(folder, classes)
        if not listed:
            raise CorruptDataError(f"{folder} holds no pictures in folders of classes, {classes[0]} for one.")
        others.append(_evenly(listed))
    return PictureFiles(classes, _evenly(whole), others)


def _folders(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))


def _pictures(folder: Path, classes: list[str]) -> Listed:
    """Return the files in the folders of classes, and below, whose endings PIL reads; other files are left out."""
    readable = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    return [
        (os.path.join(inside, name), label)
        for label, each in enumerate(classes)
        for inside, _, names in sorted(os.walk(folder / each, followlinks=True))
        for name in sorted(names)
        if Path(name).suffix.lower() in readable and not name.startswith(".")
    ]


def _evenly(listed: Listed) -> Listed:
    return [listed[number] for number in drawn(torch.tensor([label for _, label in listed]), seed=0).tolist()]


def load_image_folder(root: Path | None, image_size: int | None = None, channels: int | None = None) -> Images:
    """Decode all pictures below a folder, see `list_pictures`.

    Args:
        root: the folder.
        image_size: pixels a side of the squares that pictures are scaled and cropped to; None where all have one size.
        channels: 1 for greyscale, 3 for RGB; None: greyscale where all pictures are.

    Raises:
        MissingDataError: without a folder.
        CorruptDataError: naming the picture that cannot be used, and why.
    """
    if root is None:
        raise MissingDataError("Which pictures? Give data.root=FOLDER, with a folder of pictures for each class in it.")
    files = list_pictures(root)
    lists = [files.train, *files.others]
    whole = [each for listed in lists for each in listed]
    names, pictures = [name for name, _ in whole], []
    with progress("Decoding pictures", len(whole)) as advance, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for each in pool.map(partial(_decoded, image_size=image_size), names):
            pictures.append(each)
            advance()
    sizes = list(map(len, lists))
    images, labels = stacked(pictures, channels, names), torch.tensor([label for _, label in whole])
    return with_test_images(list(map(Split, images.split(sizes), labels.split(sizes))), len(files.classes))


def _decoded(name: str, image_size: int | None) -> Tensor:
    try:
        with Image.open(name) as picture:
            return pixels(picture, image_size)
    except ValueError as error:
        raise CorruptDataError(f"{name}: {error}; convert it or take it away.") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise CorruptDataError(f"{name} is no readable picture ({reason_of(error)}); take it away.") from error
