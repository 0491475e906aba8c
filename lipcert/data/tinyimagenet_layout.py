"""The files of Tiny-ImageNet in their original layout: which image belongs to which class."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from lipcert.data.arrays import CorruptDataError
from lipcert.data.tree import Tree

CLASSES = "wnids.txt"
ANNOTATIONS = "val/val_annotations.txt"


@dataclass(frozen=True)
class Layout:
    """Names of images with the index of their class among the sorted wnids."""

    wnids: tuple[str, ...]
    train: list[tuple[str, int]]
    test: list[tuple[str, int]]


def read_layout(tree: Tree) -> Layout:
    """List a tree's images; its validation images are the test set, since the labels of its own are not public.

    Training images take turns class by class, so that the first or last so many of them hold all classes alike.

    Raises:
        CorruptDataError: for whatever is missing, unknown or left over, one sentence each.
    """
    names = tree.names()
    wnids = _read_wnids(tree, names)
    images: dict[str, list[str]] = {}
    for name in names:
        path = PurePosixPath(name)
        if path.suffix.lower() in (".jpeg", ".jpg") and not path.name.startswith("."):
            images.setdefault(str(path.parent), []).append(path.name)
    classes = {name.split("/")[1] for name in names if name.startswith("train/")}
    if absent := [wnid for wnid in wnids if wnid not in classes]:
        raise CorruptDataError(f"Expected the class folder {tree.locate(f'train/{absent[0]}')}, which is not there.")
    _refuse_unknown_classes(tree, images, wnids)
    turns = []
    for label, wnid in enumerate(wnids):
        for turn, name in enumerate(_training_images(tree, names, images, wnid)):
            turns.append((turn, label, name))
    return Layout(wnids, [(name, label) for _, label, name in sorted(turns)], _test_images(tree, names, images, wnids))


def _lines(tree: Tree, name: str, names: Iterable[str]) -> list[str]:
    if name not in names:
        raise CorruptDataError(f"Expected {tree.locate(name)}, which is not there; unpack the original archive again.")
    try:
        return [line for line in tree.read(name).decode("utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise CorruptDataError(f"{tree.locate(name)} is no text file; unpack the original archive again.") from error


def _read_wnids(tree: Tree, names: frozenset[str]) -> tuple[str, ...]:
    wnids = [line.strip() for line in _lines(tree, CLASSES, names)]
    if not wnids or len(set(wnids)) != len(wnids):
        raise CorruptDataError(f"Expected {tree.locate(CLASSES)} to name each class once, got {len(wnids)} lines.")
    return tuple(sorted(wnids))


def _refuse_unknown_classes(tree: Tree, folders: Iterable[str], wnids: tuple[str, ...]) -> None:
    found = {parts[1] for folder in folders if len(parts := folder.split("/")) > 1 and parts[0] == "train"}
    if unknown := sorted(found - set(wnids)):
        raise CorruptDataError(
            f"{tree.locate(f'train/{unknown[0]}')} holds images of a class that {CLASSES} does not name; "
            "delete the folder or unpack the original archive again."
        )


def _training_images(tree: Tree, names: frozenset[str], images: dict[str, list[str]], wnid: str) -> list[str]:
    """Return the names of a class's training images; its list of boxes says which must be there."""
    top = f"train/{wnid}"
    present = sorted(images.get(f"{top}/images", []))
    if not present:
        raise CorruptDataError(f"Class {wnid} has no images: none is in {tree.locate(f'{top}/images')}.")
    boxes = f"{top}/{wnid}_boxes.txt"
    listed = {line.split("\t")[0].strip() for line in _lines(tree, boxes, names)}
    if missing := sorted(listed - set(present)):
        raise CorruptDataError(_missing(tree, boxes, f"{top}/images/{missing[0]}", len(missing)))
    return [f"{top}/images/{name}" for name in present]


def _test_images(
    tree: Tree, names: frozenset[str], images: dict[str, list[str]], wnids: tuple[str, ...]
) -> list[tuple[str, int]]:
    """Return the validation images in the order of their annotations."""
    index = {wnid: label for label, wnid in enumerate(wnids)}
    annotated: dict[str, int] = {}
    for number, line in enumerate(_lines(tree, ANNOTATIONS, names), start=1):
        fields = [field.strip() for field in line.split("\t")]
        where = f"Line {number} of {tree.locate(ANNOTATIONS)}"
        if len(fields) < 2:
            raise CorruptDataError(f"{where}: expected file, class and box between tabs, got {line[:60]!r}.")
        if fields[1] not in index:
            raise CorruptDataError(f"{where}: expected a class that {CLASSES} names, got {fields[1]!r}.")
        if fields[0] in annotated:
            raise CorruptDataError(f"{where}: expected each image once, got {fields[0]} again.")
        annotated[fields[0]] = index[fields[1]]
    if not annotated:
        raise CorruptDataError(f"Expected {tree.locate(ANNOTATIONS)} to name the validation images, got no line.")
    present = set(images.get("val/images", []))
    if missing := sorted(annotated.keys() - present):
        raise CorruptDataError(_missing(tree, ANNOTATIONS, f"val/images/{missing[0]}", len(missing)))
    if extra := sorted(present - annotated.keys()):
        raise CorruptDataError(
            f"{tree.locate(f'val/images/{extra[0]}')} has no line in {ANNOTATIONS} ({len(extra)} such images); "
            "unpack the original archive again."
        )
    return [(f"val/images/{name}", label) for name, label in annotated.items()]


def _missing(tree: Tree, listing: str, name: str, count: int) -> str:
    return (
        f"{listing} names {tree.locate(name)}, which is not there ({count} such images); "
        "unpack the original archive again."
    )
