"""Any torch Dataset of (image, label), torchvision's among them, read into memory."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from PIL import Image
from torch import Tensor

from lipcert.data.arrays import CorruptDataError, Images, Split, classes_of
from lipcert.data.pictures import pixels, size_of, stacked
from lipcert.system.errors import first_line
from lipcert.system.plugins import look_here
from lipcert.system.progress import progress

USUAL = {"train": (True, False), "split": ("train", "test")}
"""Arguments by which torchvision's data sets tell training and test images apart, and their values."""


def load_dataset(
    root: Path | None,
    dataset: Mapping[str, Any] | None = None,
    test_dataset: Mapping[str, Any] | None = None,
    image_size: int | None = None,
    channels: int | None = None,
) -> Images:
    """Read a training set and a test set.

    Args:
        root: passed on as `root`, where the data set takes one.
        dataset: `_target_` and arguments of the training set.
        test_dataset: arguments that differ for the test set; None for `train=False` or `split="test"`.
        image_size, channels: of its pictures, see `load_image_folder`.

    Raises:
        ValueError: for a data set that is not found or cannot be made.
        CorruptDataError: for an image that cannot be used, saying why, or labels with gaps.
    """
    target = str((dataset or {}).get("_target_", ""))
    if not target:
        raise ValueError("Which data set? Give data.dataset._target_=package.Class, torchvision.datasets.SVHN for one.")
    look_here()
    try:
        taken = inspect.signature(get_object(target)).parameters
        known = {"root": str(root)} if root is not None and "root" in taken else {}
        usual = next(({key: value} for key, value in USUAL.items() if key in taken), {})
        if not usual and not test_dataset:
            raise ValueError("say what differs for the test set by data.test_dataset.ARGUMENT=VALUE")
        train = instantiate({**known, **{key: value[0] for key, value in usual.items()}, **(dataset or {})})
        test = instantiate(
            {**known, **(dataset or {}), **{key: value[1] for key, value in usual.items()}, **(test_dataset or {})}
        )
    except (ImportError, ValueError, InstantiationException) as error:
        raise ValueError(f"data.dataset._target_={target}: {first_line(error.__cause__ or error)}.") from error
    pictures, labels = _read(train, image_size)
    test_pictures, test_labels = _read(test, image_size)
    names = [f"image {number} of {target}" for number in range(len(labels) + len(test_labels))]
    images = stacked([*pictures, *test_pictures], channels, names)
    train, test = map(Split, images.split([len(labels), len(test_labels)]), map(torch.tensor, (labels, test_labels)))
    return Images(train, test, classes_of(train.labels))


def _read(dataset: Any, image_size: int | None) -> tuple[list[Tensor], list[int]]:
    name, pictures, labels = type(dataset).__name__, [], []
    with progress(f"Reading {name}", len(dataset)) as advance:
        for number in range(len(dataset)):
            try:
                image, label, *_ = dataset[number]
                pictures.append(_pixels(image, image_size))
                labels.append(int(label))
            except (ValueError, TypeError) as error:
                raise CorruptDataError(f"Image {number} of {name}: {error}.") from error
            advance()
    return pictures, labels


def _pixels(image: Any, image_size: int | None) -> Tensor:
    """Return what a Dataset calls an image as (C, H, W), uint8, or float32 in [0, 1]."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    if isinstance(image, Image.Image):
        return pixels(image, image_size)
    if not isinstance(image, Tensor) or image.dim() != 3:
        raise TypeError(f"expected a picture or a tensor (C, H, W), got {type(image).__name__}")
    if image_size is not None and tuple(image.shape[1:]) != (image_size, image_size):
        raise ValueError(f"it is a tensor, {size_of(image)}, which data.image_size does not scale; do it beforehand")
    if image.dtype == torch.uint8:
        return image
    if not image.is_floating_point() or not 0 <= image.min() <= image.max() <= 1:
        raise ValueError(
            "expected 8-bit pixels or floats in [0, 1]; leave a normalisation to the network (lipcert.nn.Normalize)"
        )
    return image.float()
