"""The files of Tiny-ImageNet in their original layout: which image belongs to which class."""

import glob
import zipfile
from pathlib import Path, PurePosixPath

from lipcert.data.arrays import CorruptDataError

CLASSES = "wnids.txt"
ANNOTATIONS = "val/val_annotations.txt"
AGAIN = "unpack the original archive again."

Tree = Path | zipfile.Path
"""The top of the files: a folder, or one inside an archive that is read without unpacking it."""
Listed = list[tuple[str, int]]
"""Names of images below the top, each with its label: the index of its class among the sorted wnids."""


def read_layout(tree: Tree) -> tuple[int, Listed, Listed]:
    """Return the number of classes, the training images, and the validation images, whose labels are public.

    Training images take turns class by class, so that the first or last so many of them hold all classes alike.

    Raises:
        CorruptDataError: for whatever is missing, unknown or left over, one sentence each.
    """
    wnids = sorted(line.strip() for line in _lines(tree, CLASSES))
    if not wnids or len(set(wnids)) != len(wnids):
        raise CorruptDataError(f"Expected {tree / CLASSES} to name each class once, got {len(wnids)} lines.")
    images = _images(tree)
    found = {parts[1] for folder in images if len(parts := folder.split("/")) > 1 and parts[0] == "train"}
    if unknown := sorted(found - set(wnids)):
        raise CorruptDataError(
            f"{tree / 'train' / unknown[0]} holds images of a class that {CLASSES} does not name; "
            f"delete the folder or {AGAIN}"
        )
    turns = sorted(
        (turn, label, name)
        for label, wnid in enumerate(wnids)
        for turn, name in enumerate(_training_images(tree, wnid, images.get(f"train/{wnid}/images", set())))
    )
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    test = _test_images(tree, labels, images.get("val/images", set()))
    return len(wnids), [(name, label) for _, label, name in turns], test


def _images(tree: Tree) -> dict[str, set[str]]:
    """Return the names of the images in each folder."""
    if isinstance(tree, zipfile.Path):
        names = [name.removeprefix(tree.at) for name in tree.root.namelist() if name.startswith(tree.at)]
    else:
        names = glob.glob("**", root_dir=tree, recursive=True)
    images: dict[str, set[str]] = {}
    for path in map(PurePosixPath, names):
        if path.suffix.lower() in (".jpeg", ".jpg") and not path.name.startswith("."):
            images.setdefault(str(path.parent), set()).add(path.name)
    return images


def _lines(tree: Tree, name: str) -> list[str]:
    try:
        return [line for line in (tree / name).read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError as error:
        raise CorruptDataError(f"Expected {tree / name}, which is not there; {AGAIN}") from error
    except UnicodeDecodeError as error:
        raise CorruptDataError(f"{tree / name} is no text file; {AGAIN}") from error


def _training_images(tree: Tree, wnid: str, present: set[str]) -> list[str]:
    """Return the names of a class's training images; its list of boxes says which must be there."""
    folder, boxes = f"train/{wnid}/images", f"train/{wnid}/{wnid}_boxes.txt"
    _refuse_missing(tree, boxes, {line.split("\t")[0].strip() for line in _lines(tree, boxes)}, folder, present)
    return [f"{folder}/{name}" for name in sorted(present)]


def _test_images(tree: Tree, labels: dict[str, int], present: set[str]) -> Listed:
    """Return the validation images in the order of their annotations."""
    annotated: dict[str, int] = {}
    for number, line in enumerate(_lines(tree, ANNOTATIONS), start=1):
        name, *rest = (field.strip() for field in line.split("\t"))
        where = f"Line {number} of {tree / ANNOTATIONS}"
        if not rest:
            raise CorruptDataError(f"{where}: expected file, class and box between tabs, got {line[:60]!r}.")
        if rest[0] not in labels:
            raise CorruptDataError(f"{where}: expected a class that {CLASSES} names, got {rest[0]!r}.")
        if name in annotated:
            raise CorruptDataError(f"{where}: expected each image once, got {name} again.")
        annotated[name] = labels[rest[0]]
    _refuse_missing(tree, ANNOTATIONS, set(annotated), "val/images", present)
    if extra := sorted(present - annotated.keys()):
        image = tree / "val/images" / extra[0]
        raise CorruptDataError(f"{image} has no line in {ANNOTATIONS} ({len(extra)} such images); {AGAIN}")
    return [(f"val/images/{name}", label) for name, label in annotated.items()]


def _refuse_missing(tree: Tree, listing: str, listed: set[str], folder: str, present: set[str]) -> None:
    """Refuse a list of the images of `folder` that is empty or names some that are not present."""
    if not listed:
        raise CorruptDataError(f"Expected {tree / listing} to name the images of {folder}, got no line; {AGAIN}")
    if missing := sorted(listed - present):
        image = tree / folder / missing[0]
        raise CorruptDataError(f"{listing} names {image}, which is not there ({len(missing)} such images); {AGAIN}")
