"""The published architectures, built from one specification table (appendix C.1)."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lipcert.nn.activations import ClippedMaxMin, ClippedReLU, MaxMin
from lipcert.nn.almost_orthogonal import parametrize_almost_orthogonal


class Conv(NamedTuple):
    """C(channels, kernel_size, stride, padding), followed by an activation."""

    channels: int
    kernel_size: int = 3
    stride: int = 1
    padding: int = 1


def _halving(channels: int, padding: int = 1) -> Conv:
    return Conv(channels, kernel_size=4, stride=2, padding=padding)


def _symmetric(*thresholds: float) -> tuple[tuple[float, float], ...]:
    return tuple((threshold, -threshold) for threshold in thresholds)


class Architecture(NamedTuple):
    """Convolutions, then hidden fully connected layers; the layer onto the classes is implied.

    `threshold`: initial threshold of every ClippedReLU. `max_min`: initial (max, min) of every
    ClippedMaxMin, first layer first.
    """

    convolutions: tuple[Conv, ...]
    hidden: tuple[int, ...]
    threshold: float
    max_min: tuple[tuple[float, float], ...]


ARCHITECTURES: dict[str, Architecture] = {
    "small": Architecture(
        convolutions=(_halving(16), _halving(32)), hidden=(100,), threshold=1.0, max_min=_symmetric(*[1.0] * 3)
    ),
    "4c3f": Architecture(
        convolutions=(Conv(32), _halving(32), Conv(64), _halving(64)),
        hidden=(512, 512),
        threshold=1.0,
        max_min=_symmetric(*[1.0] * 6),
    ),
    "6c2f": Architecture(
        convolutions=(Conv(32), Conv(32), _halving(32), Conv(64), Conv(64), _halving(64)),
        hidden=(512,),
        threshold=2.0,
        max_min=((0.1, -0.1), (0.1, -0.15), *_symmetric(0.15, 0.15, 0.2, 0.3, 1.2)),
    ),
    "8c2f": Architecture(
        convolutions=(
            *(Conv(64), Conv(64), _halving(64, padding=0)),
            *(Conv(128), Conv(128), _halving(128, padding=0)),
            *(Conv(256), _halving(256, padding=0)),
        ),
        hidden=(256,),
        threshold=1.0,
        max_min=_symmetric(0.8, 1.0, 1.4, 1.4, 1.4, 1.6, 2.0, 3.0, 1.6),
    ),
}

ACTIVATIONS: dict[str, Callable[[Sequence[int], float, tuple[float, float]], nn.Module]] = {
    "relu": lambda shape, threshold, max_min: nn.ReLU(),
    "clipped_relu": lambda shape, threshold, max_min: ClippedReLU(shape, threshold),
    "maxmin": lambda shape, threshold, max_min: MaxMin(),
    "clipped_maxmin": lambda shape, threshold, max_min: ClippedMaxMin(shape, *max_min),
}
"""By name: what makes the activation for inputs of a shape, with the initial thresholds of `Architecture`."""

PARAMETRIZATIONS = ("none", "aol")


def _convolution(in_channels: int, spec: Conv) -> nn.Conv2d:
    """Return a convolution as published: weights N(0, 2 / (k^2 * out channels)), zero bias."""
    layer = nn.Conv2d(in_channels, spec.channels, spec.kernel_size, spec.stride, spec.padding)
    nn.init.normal_(layer.weight, std=math.sqrt(2 / (spec.kernel_size**2 * spec.channels)))
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def _widened(spec: Architecture, factor: float) -> Architecture:
    """Return an architecture with `factor` times the channels and hidden units, in pairs, as MaxMin needs them."""

    def scaled(units: int) -> int:
        return max(2, 2 * round(units * factor / 2))

    convolutions = tuple(each._replace(channels=scaled(each.channels)) for each in spec.convolutions)
    return spec._replace(convolutions=convolutions, hidden=tuple(map(scaled, spec.hidden)))


def _output_size(size: int, spec: Conv) -> int:
    return (size + 2 * spec.padding - spec.kernel_size) // spec.stride + 1


def build(
    name: str,
    image_shape: Sequence[int],
    num_classes: int,
    activation: str = "clipped_relu",
    threshold: float | None = None,
    parametrization: str = "none",
    width: float = 1.0,
) -> nn.Sequential:
    """Build a published architecture for any image size and number of classes.

    Args:
        name: a key of `ARCHITECTURES`.
        image_shape: (channels, height, width).
        num_classes: number of logits, >= 2.
        activation: a key of `ACTIVATIONS`.
        threshold: initial threshold t of every clipped activation, ±t for MaxMin; the published one when None.
        parametrization: one of `PARAMETRIZATIONS`; "aol" rescales every weight so that its layer is 1-Lipschitz.
        width: factor on the published channels and hidden units, > 0.

    Raises:
        ValueError: for an unknown name, activation or parametrization, or an image too small for the convolutions.

    Source: appendix C.1.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"Expected `name` to be one of {sorted(ARCHITECTURES)}, got {name!r}.")
    if activation not in ACTIVATIONS:
        raise ValueError(f"Expected `activation` to be one of {list(ACTIVATIONS)}, got {activation!r}.")
    if parametrization not in PARAMETRIZATIONS:
        raise ValueError(f"Expected `parametrization` to be one of {list(PARAMETRIZATIONS)}, got {parametrization!r}.")
    if len(image_shape) != 3:
        raise ValueError(f"Expected `image_shape` (channels, height, width), got {tuple(image_shape)}.")
    if num_classes < 2:
        raise ValueError(f"Expected `num_classes` >= 2, got {num_classes}.")
    if not width > 0:
        raise ValueError(f"Expected `width` > 0, got {width}.")
    spec = _widened(ARCHITECTURES[name], width)
    upper = spec.threshold if threshold is None else threshold
    max_min = spec.max_min if threshold is None else ((threshold, -threshold),) * len(spec.max_min)
    channels, height, width = image_shape
    layers: list[nn.Module] = []
    for index, convolution in enumerate(spec.convolutions):
        layers.append(_convolution(channels, convolution))
        channels = convolution.channels
        height, width = _output_size(height, convolution), _output_size(width, convolution)
        if height < 1 or width < 1:
            raise ValueError(
                f"Images of shape {tuple(image_shape)} are too small for {name}: "
                f"nothing is left after convolution {index + 1}."
            )
        layers.append(ACTIVATIONS[activation]((channels, height, width), upper, max_min[index]))
    layers.append(nn.Flatten())
    features = channels * height * width
    for index, hidden in enumerate(spec.hidden, start=len(spec.convolutions)):
        layers += [nn.Linear(features, hidden), ACTIVATIONS[activation]((hidden,), upper, max_min[index])]
        features = hidden
    layers.append(nn.Linear(features, num_classes))
    model = nn.Sequential(*layers)
    if parametrization == "aol":
        parametrize_almost_orthogonal(model)
    return model


@torch.no_grad()
def project_thresholds(model: nn.Module) -> None:
    """Project every learnable threshold of `model` onto its feasible set (theta >= 0)."""
    thresholds: list[Tensor] = [module.threshold for module in model.modules() if isinstance(module, ClippedReLU)]
    if thresholds:
        torch._foreach_clamp_min_(thresholds, 0.0)  # all of them at once
