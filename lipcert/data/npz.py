"""Images and labels in NumPy's .npz files: whole data sets, and extra images to train on."""

import hashlib
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from lipcert.data.arrays import CorruptDataError, Images, MissingDataError, Split, classes_of, with_test_images
from lipcert.system.errors import first_line

NAMES = (
    (("image", "label"), ("images", "labels")),
    (("train_images", "train_labels"), ("x_train", "y_train")),
    (("test_images", "test_labels"), ("x_test", "y_test")),
    (("val_images", "val_labels"), ("x_val", "y_val")),
)
"""What arrays are called: all images, those to train on, to test, held-out ones; MedMNIST's names and Keras's."""


def read_arrays(path: Path) -> list[Split | None]:
    """Return all images, and those to train on, to test and held-out ones; None for those that are not there.

    Raises:
        MissingDataError: where there is no such file.
        CorruptDataError: for a damaged file, and arrays that are no 8-bit images with whole numbers as labels.
    """
    if not path.is_file():
        raise MissingDataError(f"{path} is no file; give the .npz file of arrays.")
    if not zipfile.is_zipfile(path):
        raise CorruptDataError(f"{path} is damaged or no .npz file of arrays, which `numpy.savez` writes.")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            pairs = [next((pair for pair in names if pair[0] in arrays), None) for names in NAMES]
            return [None if pair is None else _split(path, *pair, arrays) for pair in pairs]
    except CorruptDataError:
        raise
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise CorruptDataError(f"{path} is damaged or no .npz file of arrays ({first_line(error)}).") from error


def _split(path: Path, image: str, label: str, arrays: "np.lib.npyio.NpzFile") -> Split:
    if label not in arrays:
        raise CorruptDataError(f"{path} holds {image}, but no {label}.")
    pixels, classes = arrays[image], arrays[label]
    if pixels.dtype != np.uint8:
        raise CorruptDataError(
            f"{path}: expected {image} to be uint8, got {pixels.dtype}; make np.uint8(np.rint(255 * x)) of x in [0, 1]."
        )
    if classes.ndim == 2 and classes.shape[1] == 1:
        classes = classes[:, 0]
    if not np.issubdtype(classes.dtype, np.integer) or classes.ndim != 1:
        raise CorruptDataError(f"{path}: expected {label} to be N whole numbers, got {classes.dtype} {classes.shape}.")
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.ndim == 4 and pixels.shape[3] in (1, 3) and pixels.shape[1] not in (1, 3):
        pixels = pixels.transpose(0, 3, 1, 2)
    if pixels.ndim != 4:
        raise CorruptDataError(f"{path}: expected {image} (N, H, W), (N, H, W, C) or (N, C, H, W), got {pixels.shape}.")
    return Split(torch.from_numpy(np.ascontiguousarray(pixels)), torch.from_numpy(classes.astype(np.int64)))


def load_npz(root: Path | None) -> Images:
    """Load a data set from a file of arrays.

    Raises:
        MissingDataError, CorruptDataError: as in `read_arrays`, and for labels with gaps.
    """
    if root is None:
        raise MissingDataError("Which arrays? Give data.root=FILE.npz, with train_images and train_labels in it.")
    whole, train, test, validation = read_arrays(root)
    train = train or whole
    if train is None:
        raise CorruptDataError(f"{root} holds none of {', '.join(pair[0] for names in NAMES[:2] for pair in names)}.")
    return with_test_images([each for each in (train, test, validation) if each], classes_of(train.labels))


@dataclass(frozen=True)
class ExtraImages:
    """Images that join those of the data set in every batch, `ratio` for each of these; `description`: of the file."""

    split: Split
    ratio: float
    description: dict[str, Any]

    @classmethod
    def read(cls, path: str | Path, ratio: float, like: Images) -> Self:
        """Read a file of arrays `image` and `label`.

        Raises:
            ValueError: unless `ratio` is above 0.
            MissingDataError, CorruptDataError: as in `read_arrays`, and for other shapes or labels than the data set's.
        """
        if not 0 < ratio < math.inf:
            raise ValueError(f"Expected `data.extra.ratio` > 0 and finite, got {ratio}.")
        path = Path(path).expanduser()
        whole, train, *_ = read_arrays(path)
        split = whole or train
        if split is None:
            raise CorruptDataError(f"data.extra.path={path}: expected arrays called image and label.")
        try:
            Images(like.train, split, like.num_classes)
        except CorruptDataError as error:
            raise CorruptDataError(f"data.extra.path={path}: {str(error).replace('test', 'extra')}") from error
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(split, ratio, {"path": str(path), "images": len(split), "ratio": ratio, "sha256": digest})
