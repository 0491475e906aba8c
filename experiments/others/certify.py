"""Certify networks of SDP-CROWN's benchmark, stage by stage, as executed in float32.

    python -m experiments.others.certify FOLDER NAME [--limit 200] [--batch 20] [--output NAME.json]

FOLDER holds their state dicts and images, which are not part of this repository (see the page), NAME is one of
`NETWORKS`. Published figures are those of the benchmark's Table 1, per cent of 200 images and seconds on a V100.
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

from lipcert.certificates import OTHER_STAGES, STAGES, Cascade
from lipcert.nn import Normalize
from lipcert.system.files import write_json

STATISTICS = [125.3 / 255, 123.0 / 255, 113.9 / 255], [0.225] * 3
CHOSEN = (STAGES[0], STAGES[2], STAGES[3], OTHER_STAGES[3])


class Other(NamedTuple):
    """A network of the benchmark: files, epsilon in pixels of [0, 1], layers, what pages call it, published figures."""

    weights: str
    images: str
    epsilon: float
    layers: Callable[[], list[nn.Module]]
    title: str
    published: dict[str, float]


def _convolutional(channels: list[tuple[int, int, int, int, int]], features: int) -> list[nn.Module]:
    """Return convolutions (in, out, kernel, stride, padding) and two dense layers, ReLU between."""
    layers: list[nn.Module] = [Normalize(*STATISTICS)]
    for sizes in channels:
        layers += [nn.Conv2d(*sizes), nn.ReLU()]
    return [*layers, nn.Flatten(), nn.Linear(features, 100), nn.ReLU(), nn.Linear(100, 10)]


def _dense() -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10)]


CNN_A = [(3, 16, 4, 2, 1), (16, 32, 4, 2, 1)]
CONV_SMALL = [(3, 16, 4, 2, 0), (16, 32, 4, 2, 0)]
CONV_DEEP = [(3, 8, 4, 2, 1), (8, 8, 3, 1, 1), (8, 8, 3, 1, 1), (8, 8, 4, 2, 1)]
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
}


def load(folder: Path, other: Other) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a network in eval mode with its images, (B, C, H, W) in [0, 1], and labels."""
    model = nn.Sequential(*other.layers()).eval()
    weights = torch.load(folder / other.weights, weights_only=True)
    own = {key: value for key, value in model.state_dict().items() if key.endswith(("weight", "bias"))}
    renamed = dict(zip(own, weights.values(), strict=True))
    model.load_state_dict({**model.state_dict(), **renamed})
    data = np.load(folder / other.images)
    return model, torch.from_numpy(data["images"]).movedim(3, 1).float() / 255, torch.from_numpy(data["labels"]).long()


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what a command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("name", choices=NETWORKS)
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--output", type=Path)
    return parser.parse_args(words)


def main() -> None:
    settings = arguments()
    other = NETWORKS[settings.name]
    model, images, labels = load(settings.folder, other)
    cascade, certified, started = Cascade(model, CHOSEN), 0, time.perf_counter()
    for batch, targets in zip(
        images[: settings.limit].split(settings.batch), labels.split(settings.batch), strict=False
    ):
        certified += int(cascade(batch.contiguous(), targets, other.epsilon).certified.sum())
    seconds, count = time.perf_counter() - started, min(settings.limit, len(images))
    stages = [[stage.name, *astuple(tally)[:3]] for stage, tally in zip(CHOSEN, cascade.tallies, strict=True)]
    found = {"images": count, "certified": certified, "seconds_an_image": seconds / count, "stages": stages}
    output = settings.output or Path(f"{settings.name}.json")
    write_json(output, {"network": other.title, "published": other.published, **found})


if __name__ == "__main__":
    main()
