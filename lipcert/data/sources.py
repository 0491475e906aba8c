"""Where each data set comes from: one loader a name."""

import gzip
import hashlib
import inspect
import math
import pickle
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lipcert.data.arrays import CorruptDataError, Images, MissingDataError, Split, missing
from lipcert.data.dataset import load_dataset
from lipcert.data.folder import load_image_folder
from lipcert.data.npz import load_npz
from lipcert.data.tinyimagenet import load_tiny_imagenet
from lipcert.system.errors import refuse_below

SIZE = 32
"""Pixels a side of a crop of a photograph, and of an image of CIFAR-10."""

AGAIN = "unpack cifar-10-python.tar.gz again."

DEFAULT_ROOT = Path.home() / ".cache" / "lipcert"
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
DEBIAN_HINT = " (on Debian or Ubuntu: apt install dataset-fashion-mnist)"

IDX_NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
IDX_MAGIC = b"\0\0\x08"
"""Two zero bytes, and the type of unsigned bytes."""


def _load_digits() -> Images:
    """scikit-learn's 1,797 handwritten digits, 8x8; a fifth of each class is the test set."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data, labels = load_digits(return_X_y=True)
    images = torch.tensor(data / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    train, test = train_test_split(range(len(labels)), test_size=0.2, random_state=0, stratify=labels)
    whole = Split(images, torch.tensor(labels, dtype=torch.int64))
    return Images(whole.rows(train), whole.rows(test), 10)


@cache
def photographs() -> tuple[np.ndarray, ...]:
    """Return ten colour photographs, (H, W, 3) uint8, decoded once a process: they are not to be written to."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    pictures = [
        *(data.astronaut(), data.chelsea(), data.coffee(), data.hubble_deep_field(), data.immunohistochemistry()),
        *(data.retina(), data.rocket(), data.stereo_motorcycle()[0]),
        *(load_sample_image("china.jpg"), load_sample_image("flower.jpg")),
    ]
    return tuple(np.asarray(picture)[..., :3] for picture in pictures)


def crops(picture: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Return `count` random crops of a picture, (count, 3, 32, 32)."""
    tops = generator.integers(0, picture.shape[0] - SIZE + 1, count)
    lefts = generator.integers(0, picture.shape[1] - SIZE + 1, count)
    cut = [picture[top : top + SIZE, left : left + SIZE] for top, left in zip(tops, lefts, strict=True)]
    return np.stack(cut).transpose(0, 3, 1, 2)


def load_photos(train_per_class: int = 1000, test_per_class: int = 200) -> Images:
    """A CIFAR-shaped set that needs no network: crops of photographs bundled with two libraries, shuffled once.

    Each of ten photographs is a class. Training crops come from its left half, test crops from its right half; they are
    the same on every machine.
    """
    generator = np.random.default_rng(0)
    pictures = photographs()
    train, test = [], []
    for picture in pictures:
        middle = picture.shape[1] // 2
        train.append(crops(picture[:, :middle], train_per_class, generator))
        test.append(crops(picture[:, middle:], test_per_class, generator))

    def split(parts: list[np.ndarray]) -> Split:
        images = torch.from_numpy(np.concatenate(parts).copy())
        labels = torch.arange(len(parts)).repeat_interleave(len(parts[0]))
        order = torch.from_numpy(generator.permutation(len(images)))
        return Split(images[order], labels[order])

    return Images(split(train), split(test), len(pictures))


def read_idx(path: Path) -> Tensor:
    """Read an idx file of unsigned bytes: two zero bytes, type, number of dimensions, sizes, data.

    Raises:
        CorruptDataError: if it is not such a file, or has more or fewer bytes than its header says.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise CorruptDataError(f"Cannot read {path}: {error}. Delete the file and fetch it again.") from error
    if len(content) < 4 or content[:3] != IDX_MAGIC:
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
    """Return the four files, plain or gzipped, in the order of `IDX_NAMES`, of the first folder that holds them all."""
    for folder in folders:
        found = [path for name in IDX_NAMES if (path := _find(folder, name))]
        if len(found) == len(IDX_NAMES):
            return found
    return None


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def read_split(images: Path, labels: Path) -> Split:
    """Read images as (N, 1, H, W) uint8, and their labels; raise CorruptDataError naming the file."""
    pixels, classes = read_idx(images), read_idx(labels)
    if pixels.dim() != 3 or classes.dim() != 1 or len(pixels) != len(classes):
        raise CorruptDataError(
            f"{images} and {labels} do not belong together: shapes {tuple(pixels.shape)}, {tuple(classes.shape)}."
        )
    return Split(pixels.unsqueeze(1), classes.long())


def _load_idx(name: str, root: Path | None, extra: tuple[Path, ...] = (), hint: str = "") -> Images:
    """MNIST or Fashion-MNIST from idx files; downloaded by torchvision where they are nowhere."""
    top = DEFAULT_ROOT if root is None else root
    folders = [top, top / name, top / name / "raw", *(extra if root is None else ())]
    files, failure = find_idx_files(folders), None
    if files is None and root is None:
        from torchvision import datasets

        try:
            getattr(datasets, name)(str(top), download=True)
        except (OSError, RuntimeError) as error:
            failure = error
        files = find_idx_files(folders)
    if files is None:
        raise missing(name, folders, f"its files{hint}", failure) from failure
    return Images(read_split(*files[:2]), read_split(*files[2:]), 10)


def _load_cifar10(root: Path | None) -> Images:
    """CIFAR-10 from the folder that its archive unpacks to; downloaded by torchvision where it is nowhere."""
    from torchvision.datasets import CIFAR10

    top, failure = DEFAULT_ROOT if root is None else root, None
    folder = top / CIFAR10.base_folder
    if root is None and not folder.is_dir():
        try:
            CIFAR10(str(top), download=True)
        except (OSError, RuntimeError) as error:
            failure = error
    if not folder.is_dir():
        raise missing("CIFAR10", [folder], "its files", failure) from failure
    splits = []
    for files in (CIFAR10.train_list, CIFAR10.test_list):
        images, labels = zip(*(_read_batch(folder / name, md5) for name, md5 in files), strict=True)
        splits.append(Split(torch.cat(images), torch.cat(labels)))
    return Images(splits[0], splits[1], 10)


def _read_batch(path: Path, md5: str) -> tuple[Tensor, Tensor]:
    """Return the images, (N, 3, 32, 32), and the labels of a file of CIFAR-10, which has to be the published one."""
    if not path.is_file():
        raise CorruptDataError(f"{path} is missing; {AGAIN}")
    content = path.read_bytes()
    if (found := hashlib.md5(content, usedforsecurity=False).hexdigest()) != md5:
        raise CorruptDataError(f"{path} is not the file that was published: expected MD5 {md5}, got {found}; {AGAIN}")
    batch = pickle.loads(content, encoding="latin1")  # of known bytes
    return torch.from_numpy(batch["data"]).view(-1, 3, SIZE, SIZE), torch.tensor(batch["labels"])


SOURCES: dict[str, Callable[..., Images]] = {
    "digits": _load_digits,
    "photos": lambda: load_photos(),
    "mnist": lambda root: _load_idx("MNIST", root),
    "fashionmnist": lambda root: _load_idx("FashionMNIST", root, (DEBIAN_FASHION_MNIST,), DEBIAN_HINT),
    "cifar10": _load_cifar10,
    "tinyimagenet": lambda root, partial=False: load_tiny_imagenet(root, DEFAULT_ROOT, partial),
    "imagefolder": load_image_folder,
    "npz": load_npz,
    "dataset": load_dataset,
}
"""By name, functions of the folder of the files and, by name, of other settings of `data`; or of nothing."""


FILES = ("npz",)
"""Data sets that are a file, not a folder of files."""


def load_images(name: str, root: str | Path | None = None, **settings: Any) -> Images:
    """Load a data set by name.

    Args:
        name: a key of `SOURCES`.
        root: folder of the files, `~` for one's own; where they usually are, when None.
        settings: of the data set, such as `image_size`; those that are None or False are left out.

    Raises:
        ValueError: for an unknown name, or a setting that the data set does not have.
        MissingDataError: saying where it was looked for and what to type.
        CorruptDataError: naming the damaged file.
    """
    if name not in SOURCES:
        raise ValueError(f"Expected `data.name` to be one of {sorted(SOURCES)}, got {name!r}.")
    refuse_below(1, {"data.image_size": settings.get("image_size")})
    given = {key: value for key, value in settings.items() if value is not None and value is not False}
    taken = list(inspect.signature(SOURCES[name]).parameters)
    folder = None if root is None else Path(root).expanduser()
    if folder is not None and not folder.is_dir() and not (folder.is_file() and name in FILES):
        kind = "file" if name in FILES else "folder"
        raise MissingDataError(f"data.root={root} is not a {kind}; give the {kind} that holds the images of {name}.")
    for key, value in {**({} if taken else {"root": root}), **given}.items():
        if key not in taken[1:] and value is not None:
            raise ValueError(f"data={name} takes no `data.{key}`, got {value}; leave it out.")
    if not taken:
        return SOURCES[name]()
    return SOURCES[name](folder, **given)


def load_again(known: Mapping[str, Any], name: str, **given: Any) -> Images:
    """Load a data set as before.

    Args:
        known: arguments of `load_images` that were used before; left aside where they are of another data set.
        name: a key of `SOURCES`.
        given: other settings, which win where they are not None.
    """
    same = known if known.get("name") == name else {}
    return load_images(**{**same, "name": name, **{key: value for key, value in given.items() if value}})
