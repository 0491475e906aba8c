"""The files of Tiny-ImageNet in their original layout: which image belongs to which class."""

import glob
import zipfile
from pathlib import Path, PurePosixPath

from lipcert.data.arrays import CorruptDataError

CLASSES = "wnids.txt"
ANNOTATIONS = "val/val_annotations.txt"
AGAIN = "unpack the original archive again."
OR_PARTIAL = "unpack the original archive again, or type data.partial=true to train on the images that are there."

Tree = Path | zipfile.Path
"""The top of the files: a folder, or one inside an archive that is read without unpacking it."""
Listed = list[tuple[str, int]]
"""Names of images below the top, each with its label: the index of its class among the sorted wnids."""


def read_layout(tree: Tree, partial: bool = False) -> tuple[Listed, Listed, int, int]:
    """Return training images, validation images, whose labels are public, the numbers of classes and of absent images.

    Training images take turns class by class, so that the first or last so many of them hold all classes alike.

    `partial`: training images may be absent, if some of each class are there; otherwise none is.

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
    turns, absent = [], 0
    for label, wnid in enumerate(wnids):
        names, lacking = _training_images(tree, wnid, images.get(f"train/{wnid}/images", set()), partial)
        turns += [(turn, label, name) for turn, name in enumerate(names)]
        absent += lacking
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    test = _test_images(tree, labels, images.get("val/images", set()))
    return [(name, label) for _, label, name in sorted(turns)], test, len(wnids), absent


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


def _training_images(tree: Tree, wnid: str, present: set[str], partial: bool) -> tuple[list[str], int]:
    """Return the names of a class's training images, and how many of those in its list of boxes are absent."""
    folder, boxes = f"train/{wnid}/images", f"train/{wnid}/{wnid}_boxes.txt"
    listed = {line.split("\t")[0].strip() for line in _lines(tree, boxes)}
    if not partial or not listed & present:
        _refuse_missing(tree, boxes, listed, folder, present, OR_PARTIAL if present else AGAIN)
    return [f"{folder}/{name}" for name in sorted(present)], len(listed - present)


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


def _refuse_missing(
    tree: Tree, listing: str, listed: set[str], folder: str, present: set[str], remedy: str = AGAIN
) -> None:
    """Refuse a list of the images of `folder` that is empty or names some that are not present."""
    if not listed:
        raise CorruptDataError(f"Expected {tree / listing} to name the images of {folder}, got no line; {AGAIN}")
    if missing := sorted(listed - present):
        image = tree / folder / missing[0]
        raise CorruptDataError(f"{listing} names {image}, which is not there ({len(missing)} such images); {remedy}")
