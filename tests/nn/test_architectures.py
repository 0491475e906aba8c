"""The published architectures: sizes, initial values, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lipcert.nn import ACTIVATIONS, ARCHITECTURES, ClippedMaxMin, ClippedReLU, MaxMin, build
from tests.pairwise import pairwise

KINDS = {"relu": nn.ReLU, "clipped_relu": ClippedReLU, "maxmin": MaxMin, "clipped_maxmin": ClippedMaxMin}
LAYERS = {"small": (2, 2), "4c3f": (4, 3), "6c2f": (6, 2), "8c2f": (8, 2)}
"""Convolutions and fully connected layers of each net."""

PUBLISHED_MAX_MIN = {
    "6c2f": [(0.1, -0.1), (0.1, -0.15), (0.15, -0.15), (0.15, -0.15), (0.2, -0.2), (0.3, -0.3), (1.2, -1.2)],
    "8c2f": [(t, -t) for t in (0.8, 1.0, 1.4, 1.4, 1.4, 1.6, 2.0, 3.0, 1.6)],
}


def _output_sizes(model: nn.Sequential, images: torch.Tensor) -> list[tuple[str, tuple[int, ...]]]:
    sizes = []
    for layer in model:
        images = layer(images)
        sizes.append((type(layer).__name__, tuple(images.shape[1:])))
    return sizes


def test_activations_of_the_cifar_4c3f() -> None:
    """Appendix C.1 counts 62,464 neurons."""
    sizes = _output_sizes(build("4c3f", (3, 32, 32), 10), torch.zeros(1, 3, 32, 32))
    assert sum(math.prod(shape) for kind, shape in sizes if kind == "ClippedReLU") == 62_464


def test_shapes_of_the_tiny_imagenet_8c2f() -> None:
    model = build("8c2f", (3, 64, 64), 200)
    shapes = [shape for kind, shape in _output_sizes(model, torch.zeros(1, 3, 64, 64)) if kind != "ClippedReLU"]
    assert shapes == [
        *[(64, 64, 64)] * 2,
        (64, 31, 31),
        *[(128, 31, 31)] * 2,
        (128, 14, 14),
        (256, 14, 14),
        (256, 6, 6),
        (9216,),
        (256,),
        (200,),
    ]


@pairwise(name=ARCHITECTURES, activation=ACTIVATIONS, image_shape=[(1, 28, 28), (3, 32, 32)])
def test_every_net_runs_and_learns(name: str, activation: str, image_shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    classes = 7 if image_shape[0] == 1 else 100
    model = build(name, image_shape, classes, activation)
    convolutions = sum(isinstance(layer, nn.Conv2d) for layer in model)
    linear = sum(isinstance(layer, nn.Linear) for layer in model)
    assert (convolutions, linear) == LAYERS[name]
    assert sum(type(layer) is KINDS[activation] for layer in model) == convolutions + linear - 1
    logits = model(torch.rand(2, *image_shape))
    assert logits.shape == (2, classes)
    assert logits.isfinite().all()
    assert not torch.equal(logits[0], logits[1])
    logits.square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any() or isinstance(model[int(key.split(".")[0])], ClippedReLU | ClippedMaxMin), key


@pytest.mark.parametrize(("name", "threshold"), [("4c3f", 1.0), ("6c2f", 2.0), ("8c2f", 1.0)])
def test_published_thresholds(name: str, threshold: float) -> None:
    model = build(name, (3, 64, 64), 10, "clipped_relu")
    clipped = [layer for layer in model if isinstance(layer, ClippedReLU)]
    assert len(clipped) == sum(LAYERS[name]) - 1
    assert all((layer.threshold == threshold).all() for layer in clipped)


@pytest.mark.parametrize("name", PUBLISHED_MAX_MIN)
def test_published_max_min_thresholds(name: str) -> None:
    model = build(name, (3, 64, 64), 10, "clipped_maxmin")
    clipped = [layer for layer in model if isinstance(layer, ClippedMaxMin)]
    for layer, (maximum, minimum) in zip(clipped, PUBLISHED_MAX_MIN[name], strict=True):
        assert (layer.max == torch.tensor(maximum)).all()
        assert (layer.min == torch.tensor(minimum)).all()


def test_a_threshold_of_ones_own() -> None:
    relu = build("small", (1, 8, 8), 10, "clipped_relu", threshold=0.25)
    assert all((layer.threshold == 0.25).all() for layer in relu if isinstance(layer, ClippedReLU))
    max_min = build("6c2f", (3, 32, 32), 10, "clipped_maxmin", threshold=0.25)
    layers = [layer for layer in max_min if isinstance(layer, ClippedMaxMin)]
    assert all((layer.max == 0.25).all() and (layer.min == -0.25).all() for layer in layers)


def test_initial_weights() -> None:
    """Convolutions N(0, 2 / (k^2 out)) with zero bias; linear layers torch's U(-1/sqrt(in), 1/sqrt(in))."""
    torch.manual_seed(0)
    model = build("8c2f", (3, 64, 64), 10)
    for layer in model:
        if isinstance(layer, nn.Conv2d):
            deviation = math.sqrt(2 / (layer.kernel_size[0] ** 2 * layer.out_channels))
            assert layer.weight.std().item() == pytest.approx(deviation, rel=6 / math.sqrt(2 * layer.weight.numel()))
            assert abs(layer.weight.mean().item()) < 6 * deviation / math.sqrt(layer.weight.numel())
            assert layer.weight.abs().max() > 2.5 * deviation, "normal, not uniform"
            assert not layer.bias.any()
        if isinstance(layer, nn.Linear):
            limit = 1 / math.sqrt(layer.in_features)
            assert limit * 0.99 < layer.weight.abs().max().item() <= limit


@pytest.mark.parametrize(
    ("name", "size", "convolution"), [("8c2f", 20, 8), ("8c2f", 8, 6), ("small", 1, 1), ("4c3f", 2, 4)]
)
def test_too_small_images_are_refused(name: str, size: int, convolution: int) -> None:
    with pytest.raises(ValueError, match=rf"\(3, {size}, {size}\).*too small for {name}.*convolution {convolution}"):
        build(name, (3, size, size), 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("5c2f", (3, 32, 32), 10), r"(?s)'4c3f', '6c2f', '8c2f', 'small'.*got '5c2f'"),
        (("small", (3, 32, 32), 10, "gelu"), r"'clipped_relu'.*'maxmin'.*got 'gelu'"),
        (("small", (3, 32, 32), 1), "num_classes.*>= 2, got 1"),
        (("small", (32, 32), 10), r"channels, height, width.*\(32, 32\)"),
        (("small", (3, 32, 32), 10, "clipped_relu", -0.5), "threshold"),
    ],
)
def test_refusals_name_the_alternatives(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(*arguments)


def test_width_scales_channels_and_hidden_units_in_pairs() -> None:
    model = build("small", (1, 8, 8), 10, "clipped_maxmin", width=0.3)
    sizes = [layer.weight.shape[0] for layer in model if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert sizes == [4, 10, 30, 10]  # of 16, 32, 100; classes stay
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    with pytest.raises(ValueError, match="`width` > 0"):
        build("small", (1, 8, 8), 10, width=0.0)
