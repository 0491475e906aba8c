"""Where each data set comes from: one loader a name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from lipcert.data.arrays import CorruptDataError, Images, MissingDataError, Split
from lipcert.data.idx import find_idx_folder, read_split
from lipcert.data.photos import load_photos
from lipcert.data.tinyimagenet import load_tiny_imagenet

DEFAULT_ROOT = Path.home() / ".cache" / "lipcert"
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


def _load_digits(root: Path | None) -> Images:
    """scikit-learn's 1,797 handwritten digits, 8x8; a fifth of each class is the test set."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data, labels = load_digits(return_X_y=True)
    images = torch.tensor(data / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    train, test = train_test_split(range(len(labels)), test_size=0.2, random_state=0, stratify=labels)
    labels = torch.tensor(labels, dtype=torch.int64)
    return Images(Split(images[train], labels[train]), Split(images[test], labels[test]), 10)


def _load_idx(name: str, root: Path | None, extra: tuple[Path, ...] = ()) -> Images:
    """MNIST or Fashion-MNIST from idx files; downloaded by torchvision where they are nowhere."""
    top = DEFAULT_ROOT if root is None else root
    folders = [top, top / name, top / name / "raw", *(extra if root is None else ())]
    folder = find_idx_folder(folders)
    if folder is None and root is None:
        folder = _download_idx(name, top, folders)
    if folder is None:
        raise _missing(name, folders, tried_download=root is None)
    return Images(read_split(folder, "train"), read_split(folder, "test"), 10)


def _download_idx(name: str, top: Path, folders: list[Path]) -> Path | None:
    from torchvision import datasets

    try:
        getattr(datasets, name)(str(top), download=True)
    except (OSError, RuntimeError) as error:
        raise _missing(name, folders) from error
    return find_idx_folder(folders)


def _missing(name: str, folders: list[Path], tried_download: bool = True) -> MissingDataError:
    looked = ", ".join(str(folder) for folder in folders)
    hint = " On Debian or Ubuntu: apt install dataset-fashion-mnist." if name == "FashionMNIST" else ""
    return MissingDataError(
        f"{name} was not found; looked in {looked}{', and a download was not possible' if tried_download else ''}. "
        f"Put its files into a folder and type data.root=FOLDER.{hint}"
    )


def _load_cifar10(root: Path | None) -> Images:
    """CIFAR-10 in torchvision's layout (cifar-10-batches-py), checked against its digests."""
    from torchvision.datasets import CIFAR10

    top = DEFAULT_ROOT if root is None else root
    splits = []
    for train in (True, False):
        try:
            data = CIFAR10(str(top), train=train, download=root is None)
        except (OSError, RuntimeError) as error:
            if (top / CIFAR10.base_folder).is_dir():
                raise CorruptDataError(f"{top / CIFAR10.base_folder} is incomplete or damaged: {error}") from error
            raise _missing("CIFAR10", [top / CIFAR10.base_folder], tried_download=root is None) from error
        images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
        splits.append(Split(images, torch.tensor(data.targets)))
    return Images(splits[0], splits[1], 10)


SOURCES: dict[str, Callable[[Path | None], Images]] = {
    "digits": _load_digits,
    "photos": lambda root: load_photos(),
    "mnist": lambda root: _load_idx("MNIST", root),
    "fashionmnist": lambda root: _load_idx("FashionMNIST", root, (DEBIAN_FASHION_MNIST,)),
    "cifar10": _load_cifar10,
    "tinyimagenet": lambda root: load_tiny_imagenet(root, DEFAULT_ROOT),
}


def load_images(name: str, root: str | Path | None = None) -> Images:
    """Load a data set by name.

    Args:
        name: a key of `SOURCES`.
        root: folder of the files; where they usually are, when None.

    Raises:
        ValueError: for an unknown name.
        MissingDataError: saying where it was looked for and what to type.
        CorruptDataError: naming the damaged file.
    """
    if name not in SOURCES:
        raise ValueError(f"Expected `data.name` to be one of {sorted(SOURCES)}, got {name!r}.")
    if root is not None and not Path(root).is_dir():
        raise MissingDataError(f"data.root={root} is not a folder; give the folder that holds the files of {name}.")
    return SOURCES[name](None if root is None else Path(root))
