"""Networks of any depth and width whose product of norms starts near 1: linear inside blocks, else orthogonal."""

from collections.abc import Sequence
from math import prod

from torch import nn

from lipcert.nn.almost_orthogonal import parametrize_almost_orthogonal
from lipcert.nn.architectures import ACTIVATIONS
from lipcert.nn.blocks import parametrize_residual
from lipcert.nn.orthogonal import parametrize_orthogonal

START = 0.1
"""Of the scales of all residual branches together."""


def liresnet(
    image_shape: Sequence[int],
    num_classes: int,
    depth: int = 4,
    width: int = 64,
    features: int = 256,
    patch: int = 2,
    orthogonal: str = "bro",
    activation: str = "maxmin",
) -> nn.Sequential:
    """Return a network of linear residual convolutions: stem, `depth` blocks, neck, a hidden layer, the head.

    The stem reads patches of the image, the neck patches of what the blocks leave, each an orthogonal convolution; a
    block is x + scale * W x, folded into one convolution, and an activation.

    Args:
        image_shape: (channels, height, width); sides that 2 * `patch` divides.
        num_classes: number of logits, >= 2.
        depth: number of blocks, >= 1.
        width: channels of the blocks, even.
        features: units of the hidden layer, even.
        patch: side of the patches that the stem reads; the neck's are half of what is left.
        orthogonal: of the layers around blocks, a key of `lipcert.nn.ORTHOGONAL`.
        activation: a key of `lipcert.nn.ACTIVATIONS`, with thresholds of 1.

    Raises:
        ValueError: for sizes that do not fit.

    Source: Hu et al. 2023, Unlocking Deterministic Robustness Certification on ImageNet (LiResNet), with orthogonal
    layers in place of free ones at both ends.
    """
    _require(num_classes, depth=depth, width=width, features=features)
    channels, *sides = image_shape
    if patch < 1:
        raise ValueError(f"Expected `patch` to be at least 1, got {patch}.")
    if any(side % (2 * patch) for side in sides):
        raise ValueError(
            f"Expected images with sides that {2 * patch} divides, twice `patch`, got {tuple(image_shape)}."
        )
    height, breadth = (side // patch for side in sides)
    layers: list[nn.Module] = [parametrize_orthogonal(nn.Conv2d(channels, width, patch, patch), orthogonal)]
    layers.append(_activation(activation, (width, height, breadth)))
    for _ in range(depth):
        layers.append(parametrize_residual(nn.Conv2d(width, width, 3, padding=1), START / depth))
        layers.append(_activation(activation, (width, height, breadth)))
    left = (2 * width, height // 2, breadth // 2)
    layers.append(parametrize_orthogonal(nn.Conv2d(width, left[0], 2, 2), orthogonal))
    layers += [_activation(activation, left), nn.Flatten()]
    layers += _dense(prod(left), [features], num_classes, orthogonal, activation)
    return nn.Sequential(*layers)


def lipconvnet(
    image_shape: Sequence[int],
    num_classes: int,
    depth: int = 4,
    width: int = 32,
    features: int = 256,
    orthogonal: str = "bro",
    activation: str = "maxmin",
) -> nn.Sequential:
    """Return a network of `depth` almost-orthogonal convolutions, then of pixels moved to channels.

    Every second convolution is followed by a move of 2 x 2 pixels to four times the channels, and an orthogonal
    convolution of one pixel back to twice the channels.

    Args:
        image_shape: (channels, height, width); sides that moves divide.
        num_classes: number of logits, >= 2.
        depth: number of almost-orthogonal convolutions, >= 1.
        width: channels of the first ones, even.
        features: units of the hidden layer, even.
        orthogonal: of the layers between and behind them, a key of `lipcert.nn.ORTHOGONAL`.
        activation: a key of `lipcert.nn.ACTIVATIONS`, with thresholds of 1.

    Raises:
        ValueError: for sizes that do not fit.

    Source: Singla and Feizi 2021, Skew Orthogonal Convolutions (LipConvnet), with the convolutions of Prach and Lampert
    2022 (AOL).
    """
    _require(num_classes, depth=depth, width=width, features=features)
    channels, height, breadth = image_shape
    moves = depth // 2
    if height % 2**moves or breadth % 2**moves:
        raise ValueError(
            f"Expected images with sides that {2**moves} divides, halved after every second of {depth} convolutions, "
            f"got {tuple(image_shape)}."
        )
    layers: list[nn.Module] = []
    for number in range(1, depth + 1):
        layers += [nn.Conv2d(channels, width, 3, padding=1), _activation(activation, (width, height, breadth))]
        channels = width
        if number % 2 == 0:
            height, breadth = height // 2, breadth // 2
            layers += [nn.PixelUnshuffle(2), parametrize_orthogonal(nn.Conv2d(4 * width, 2 * width, 1), orthogonal)]
            channels = width = 2 * width
            layers.append(_activation(activation, (width, height, breadth)))
    free = nn.ModuleList(layer for layer in layers if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3))
    parametrize_almost_orthogonal(free)
    layers.append(nn.Flatten())
    layers += _dense(channels * height * breadth, [features], num_classes, orthogonal, activation)
    return nn.Sequential(*layers)


def mlp(
    image_shape: Sequence[int],
    num_classes: int,
    depth: int = 3,
    width: int = 256,
    orthogonal: str = "bro",
    activation: str = "maxmin",
) -> nn.Sequential:
    """Return `depth` orthogonal layers of `width` units with activations, and the head.

    Args:
        image_shape: (channels, height, width).
        num_classes: number of logits, >= 2.
        depth: number of hidden layers, >= 1.
        width: units of each, even.
        orthogonal: of the hidden layers, a key of `lipcert.nn.ORTHOGONAL`.
        activation: a key of `lipcert.nn.ACTIVATIONS`, with thresholds of 1.

    Raises:
        ValueError: for sizes that do not fit.
    """
    _require(num_classes, depth=depth, width=width)
    return nn.Sequential(nn.Flatten(), *_dense(prod(image_shape), [width] * depth, num_classes, orthogonal, activation))


def _dense(inputs: int, units: list[int], num_classes: int, orthogonal: str, activation: str) -> list[nn.Module]:
    """Return orthogonal layers with activations, and a head of rows of norm 1."""
    layers: list[nn.Module] = []
    for outputs in units:
        layers += [parametrize_orthogonal(nn.Linear(inputs, outputs), orthogonal), _activation(activation, (outputs,))]
        inputs = outputs
    return [*layers, parametrize_orthogonal(nn.Linear(inputs, num_classes), "unit_rows")]


def _activation(name: str, shape: Sequence[int]) -> nn.Module:
    if name not in ACTIVATIONS:
        raise ValueError(f"Expected `activation` to be one of {list(ACTIVATIONS)}, got {name!r}.")
    return ACTIVATIONS[name](shape, 1.0, (1.0, -1.0))


def _require(num_classes: int, depth: int, **even: int) -> None:
    """Refuse sizes no network has, and odd ones where activations take pairs."""
    if num_classes < 2 or depth < 1:
        raise ValueError(f"Expected at least 2 classes and a depth of at least 1, got {num_classes} and {depth}.")
    for name, size in even.items():
        if size < 2 or size % 2:
            raise ValueError(f"Expected `{name}` to be even and at least 2, got {size}.")
