"""Certify networks of SDP-CROWN's benchmark and two of Wong and Kolter's, stage by stage, as executed in float32.

    python -m experiments.others.certify FOLDER NAME [--data DATA] [--attack] [--limit N] [--batch 20] [--output JSON]

FOLDER holds their state dicts and images, which are not part of this repository (see the page), NAME is one of
`NETWORKS`; DATA holds MNIST and CIFAR-10 as torchvision has them, for the last two. `--attack` runs PGD and AutoAttack
on the images that are certified. Published figures are those of the benchmark's Table 1, per cent of 200 images and
seconds on a V100, and what the last two networks' own bound certifies of their first 1,000 images.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torchvision import datasets

from lipcert.attacks import auto_attack_robust, pgd_robust
from lipcert.certificates import OTHER_STAGES, STAGES, Cascade
from lipcert.nn import Normalize
from lipcert.system.files import write_json

Statistics = tuple[list[float], list[float]]

STATISTICS = [125.3 / 255, 123.0 / 255, 113.9 / 255], [0.225] * 3
CHOSEN = (STAGES[0], STAGES[2], STAGES[3], OTHER_STAGES[3])


class Other(NamedTuple):
    """A network: files, epsilon in pixels of [0, 1], layers, what pages call it, published figures, images tried.

    `images`: a file in the folder of the networks, or the name of a data set of torchvision.
    """

    weights: str
    images: str
    epsilon: float
    layers: Callable[[], list[nn.Module]]
    title: str
    published: dict[str, float]
    limit: int = 200


def _convolutional(
    channels: list[tuple[int, int, int, int, int]], features: int, statistics: Statistics | None = STATISTICS
) -> list[nn.Module]:
    """Return convolutions (in, out, kernel, stride, padding) and two dense layers, ReLU between."""
    layers: list[nn.Module] = [] if statistics is None else [Normalize(*statistics)]
    for sizes in channels:
        layers += [nn.Conv2d(*sizes), nn.ReLU()]
    return [*layers, nn.Flatten(), nn.Linear(features, 100), nn.ReLU(), nn.Linear(100, 10)]


def _dense() -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10)]


CNN_A = [(3, 16, 4, 2, 1), (16, 32, 4, 2, 1)]
CONV_SMALL = [(3, 16, 4, 2, 0), (16, 32, 4, 2, 0)]
CONV_DEEP = [(3, 8, 4, 2, 1), (8, 8, 3, 1, 1), (8, 8, 3, 1, 1), (8, 8, 4, 2, 1)]
KW_MNIST = [(1, 16, 4, 2, 1), (16, 32, 4, 2, 1)]
KW_STATISTICS = [0.485, 0.456, 0.406], [0.225] * 3
CIFAR = "sdp_cifar_images.npz", 24 / 255

COLUMNS = ("PGD", "product of norms", "β-CROWN", "SDP-CROWN", "s an image")


def _published(*figures: float) -> dict[str, float]:
    return dict(zip(COLUMNS, figures, strict=True))


NETWORKS = {
    "mlp": Other(
        *("sdp_mnist_mlp.pt", "sdp_mnist_images.npz", 1.0, _dense, "MNIST MLP, 1.0"),
        _published(54, 29, 36, 32.5, 2.5),
    ),
    "cnn_a": Other(
        *("sdp_cifar10_cnn_a.pt", *CIFAR, lambda: _convolutional(CNN_A, 2048), "CIFAR-10 CNN-A, 24/255"),
        _published(55.5, 39, 20, 49, 12),
    ),
    "convsmall": Other(
        *("sdp_cifar10_convsmall.pt", *CIFAR, lambda: _convolutional(CONV_SMALL, 1152), "CIFAR-10 ConvSmall, 24/255"),
        _published(52.5, 33, 17.5, 43.5, 9),
    ),
    "convdeep": Other(
        *("sdp_cifar10_convdeep.pt", *CIFAR, lambda: _convolutional(CONV_DEEP, 512), "CIFAR-10 ConvDeep, 24/255"),
        _published(50.5, 39.5, 30.5, 46, 25),
    ),
    "kw_mnist": Other(
        *("kw_mnist_small.pt", "MNIST", 1.58, lambda: _convolutional(KW_MNIST, 1568, None), "MNIST small, 1.58"),
        {"their own bound": 38.1},
        limit=1000,
    ),
    "kw_cifar": Other(
        *("kw_cifar_small_36px.pt", "CIFAR10", 36 / 255, lambda: _convolutional(CNN_A, 2048, KW_STATISTICS)),
        *("CIFAR-10 small, 36/255", {"their own bound": 47.0}),
        limit=1000,
    ),
}


def load(folder: Path, other: Other, data: Path | None = None) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a network in eval mode with its images, (B, C, H, W) in [0, 1], and labels.

    Raises:
        ValueError: for a network whose images are in `data` where that is None.
    """
    model = nn.Sequential(*other.layers()).eval()
    weights = torch.load(folder / other.weights, weights_only=True)
    own = {key: value for key, value in model.state_dict().items() if key.endswith(("weight", "bias"))}
    renamed = dict(zip(own, weights.values(), strict=True))
    model.load_state_dict({**model.state_dict(), **renamed})
    images, labels = _arrays(folder, other.images, data)
    return model, torch.from_numpy(images).movedim(3, 1).float() / 255, torch.from_numpy(labels).long()


def _arrays(folder: Path, name: str, data: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Return images, uint8, (B, H, W, C), and labels, (B,)."""
    if name.endswith(".npz"):
        stored = np.load(folder / name)
        return stored["images"], stored["labels"]
    if data is None:
        raise ValueError(f"Expected the folder with {name}; type --data DATA.")
    known = getattr(datasets, name)(data, train=False)
    images = np.asarray(known.data)
    return images.reshape(*images.shape[:3], -1), np.asarray(known.targets)


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what a command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("name", choices=NETWORKS)
    parser.add_argument("--data", type=Path, help="folder with MNIST and CIFAR-10")
    parser.add_argument("--attack", action="store_true", help="run PGD and AutoAttack on what is certified")
    parser.add_argument("--limit", type=int, help="images, 200 or 1,000 where nothing is said")
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--output", type=Path)
    return parser.parse_args(words)


def broken(model: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> int:
    """Return how many images PGD (100 steps, 3 restarts) or AutoAttack breaks."""
    robust = pgd_robust(model, images, labels, epsilon, steps=100, restarts=3)
    return int((~(robust & auto_attack_robust(model, images, labels, epsilon))).sum())


def main() -> None:
    settings = arguments()
    other = NETWORKS[settings.name]
    model, images, labels = load(settings.folder, other, settings.data)
    images, labels = (each[: settings.limit or other.limit] for each in (images, labels))
    stages = CHOSEN if other.limit == 200 else CHOSEN[:3]
    cascade, found, started = Cascade(model, stages), list[Tensor](), time.process_time()
    for batch, targets in zip(images.split(settings.batch), labels.split(settings.batch), strict=True):
        found.append(cascade(batch.contiguous(), targets, other.epsilon).certified)
    certified, seconds = torch.cat(found), time.process_time() - started
    content = {
        "network": other.title,
        "published": other.published,
        "images": len(images),
        "certified": int(certified.sum()),
        "seconds_an_image": seconds / len(images),
        "stages": [[stage.name, *astuple(tally)[:3]] for stage, tally in zip(stages, cascade.tallies, strict=True)],
    }
    if settings.attack:
        content["broken"] = broken(model, images[certified], labels[certified], other.epsilon)
    write_json(settings.output or Path(f"{settings.name}.json"), content)


if __name__ == "__main__":
    main()
