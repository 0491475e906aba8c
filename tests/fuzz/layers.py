"""A strategy for every supported layer: all arguments of its constructor, for inputs of a given shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import register_parametrization
from torchvision import transforms
from torchvision.transforms import v2

from lipcert.nn import (
    Abs,
    AlmostOrthogonal,
    ChannelPad,
    ClippedMaxMin,
    ClippedReLU,
    ElementwiseAffine,
    GroupSort2,
    HalvesToPairs,
    Householder,
    MaxMin,
    Normalize,
    PairsToHalves,
    Permute,
)
from tests.fuzz.weights import KINDS, SCALES, filled

Shape = tuple[int, ...]
Draw = st.DrawFn
Value = TypeVar("Value")

PLAIN = ("orthogonal", "aligned", "gaussian")
"""Weights that parametrizations are defined for."""


WIDTHS = (2, 4, 1, 3, 6, 8)
"""Outputs of layers; even numbers of them may be paired."""


def one_of(draw: Draw, values: Sequence[Value]) -> Value:
    """Draw one of the values; the first is the simplest."""
    return draw(st.sampled_from(values))


def seeded(draw: Draw) -> torch.Generator:
    """Draw a source of random numbers."""
    return torch.Generator().manual_seed(draw(st.integers(0, 2**16)))


def weighted(draw: Draw, layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d) -> nn.Module:
    """Fill a layer with weights; one in eight is parametrized."""
    parametrized = draw(st.integers(0, 7)) == 7
    kind = one_of(draw, PLAIN if parametrized else tuple(KINDS))
    generator = seeded(draw)
    with torch.no_grad():
        layer.weight.copy_(filled(layer.weight.shape, kind, draw(st.booleans()), generator))
        layer.weight.mul_(1.0 if parametrized else one_of(draw, (1.0,) * 16 + SCALES))
        if layer.bias is not None:
            layer.bias.copy_(torch.randn(layer.bias.shape, generator=generator, dtype=torch.float64) / 4)
    if parametrized:
        torch.manual_seed(0)  # spectral norms start at random vectors
        return one_of(draw, (_almost_orthogonal, *_OF_TORCH))(layer)
    return layer


def _almost_orthogonal(layer: nn.Module) -> nn.Module:
    register_parametrization(layer, "weight", AlmostOrthogonal())
    return layer


_OF_TORCH: tuple[Callable[..., nn.Module], ...] = (
    partial(parametrizations.spectral_norm, n_power_iterations=3),
    parametrizations.weight_norm,
    partial(parametrizations.orthogonal, orthogonal_map="householder"),
)


def linear(draw: Draw, shape: Shape) -> nn.Module:
    outputs = one_of(draw, WIDTHS)
    return weighted(draw, nn.Linear(shape[-1], outputs, bias=draw(st.booleans()), dtype=torch.float64))


def convolution(draw: Draw, shape: Shape) -> nn.Module:
    channels, *sides = shape
    groups = one_of(draw, [each for each in range(1, channels + 1) if channels % each == 0])
    dilation, stride = (tuple(one_of(draw, (1, 2)) for _ in sides) for _ in range(2))
    kernel = [draw(st.integers(1, 3)) for _ in sides]
    padding: str | tuple[int, ...] = one_of(draw, ("pairs", "same", "valid"))
    if padding == "same":
        stride = (1, 1)
    elif padding == "pairs":
        padding = tuple(one_of(draw, (0, 1, 2)) for _ in sides)
    added = (0, 0) if padding == "valid" else (9, 9) if padding == "same" else tuple(2 * int(each) for each in padding)
    for side in (0, 1):
        while dilation[side] * (kernel[side] - 1) + 1 > sides[side] + added[side]:
            kernel[side] -= 1
    return weighted(
        draw,
        nn.Conv2d(
            channels,
            groups * one_of(draw, WIDTHS[: max(1, 6 // groups)]),
            (kernel[0], kernel[1]),
            (stride[0], stride[1]),
            padding if isinstance(padding, str) else (padding[0], padding[1]),
            (dilation[0], dilation[1]),
            groups,
            bias=draw(st.booleans()),
            dtype=torch.float64,
        ),
    )


def other_padding(draw: Draw, shape: Shape) -> nn.Module:
    """A convolution of images that are padded with their own pixels."""
    mode = one_of(draw, ("circular", "reflect", "replicate"))
    channels, *sides = shape
    kernel = tuple(draw(st.integers(1, min(3, side))) for side in sides)
    padding = tuple(draw(st.integers(0, min(2, side - 1))) for side in sides)
    stride = one_of(draw, (1, 2))
    outputs = one_of(draw, WIDTHS)
    return weighted(
        draw,
        nn.Conv2d(channels, outputs, kernel, stride, padding, padding_mode=mode, dtype=torch.float64),  # type: ignore[arg-type]
    )


def any_convolution(draw: Draw, shape: Shape) -> nn.Module:
    """One in six pads with pixels."""
    return (other_padding if draw(st.integers(0, 5)) == 5 else convolution)(draw, shape)


def transposed(draw: Draw, shape: Shape) -> nn.Module:
    kernel, stride = draw(st.integers(1, 3)), one_of(draw, (1, 2))
    padding, added = draw(st.integers(0, (kernel - 1) // 2)), draw(st.integers(0, stride - 1))
    outputs, bias = one_of(draw, WIDTHS[:4]), draw(st.booleans())
    layer = nn.ConvTranspose2d(shape[0], outputs, kernel, stride, padding, added, bias=bias, dtype=torch.float64)
    return weighted(draw, layer)


def padding(kind: type[nn.ZeroPad2d | nn.CircularPad2d], draw: Draw, shape: Shape) -> nn.Module:
    least = -1 if kind is nn.ZeroPad2d and min(shape[1:]) > 2 else 0
    sizes = [draw(st.integers(least, min(2, side - 1))) for side in (shape[2], shape[2], shape[1], shape[1])]
    return kind((sizes[0], sizes[1], sizes[2], sizes[3]))


def channel_pad(draw: Draw, shape: Shape) -> nn.Module:
    before, after = one_of(draw, ((1, 0), (0, 2), (-1, 1), (1, -1)))
    return ChannelPad(before, after) if shape[0] > 1 else ChannelPad(1, 0)


def adaptive_pool(draw: Draw, shape: Shape) -> nn.Module:
    height, width = (one_of(draw, (1, 2, 3, None)) for _ in shape[1:])
    return nn.AdaptiveAvgPool2d((height, width))


def transform(kind: type[nn.Module], draw: Draw, shape: Shape) -> nn.Module:
    means, stds = (0.5, 0.0, 0.4914), (0.25, 0.225, 1.0, 1e-3)
    return kind([one_of(draw, means) for _ in range(shape[0])], [one_of(draw, stds) for _ in range(shape[0])])


def average_pool(draw: Draw, shape: Shape) -> nn.Module:
    kernel = tuple(draw(st.integers(1, min(3, side))) for side in shape[1:])
    stride = None if draw(st.booleans()) else tuple(draw(st.integers(1, 3)) for _ in kernel)
    padding = tuple(draw(st.integers(0, side // 2)) for side in kernel)
    return nn.AvgPool2d(
        kernel,  # type: ignore[arg-type]
        stride,  # type: ignore[arg-type]
        padding,  # type: ignore[arg-type]
        ceil_mode=draw(st.booleans()),
        count_include_pad=draw(st.booleans()),
        divisor_override=one_of(draw, (None, None, 1, 3)),
    )


def normalize(draw: Draw, shape: Shape) -> nn.Module:
    stds = (0.25, 0.5, 1.0, 1e-4, 30.0, 1 / 3)
    pairs = [(one_of(draw, (0.5, 0.0, 0.1, -3.0)), one_of(draw, stds)) for _ in range(shape[0])]
    return Normalize([mean for mean, _ in pairs], [std for _, std in pairs])


def batch_norm(kind: type[nn.BatchNorm1d | nn.BatchNorm2d], draw: Draw, shape: Shape) -> nn.Module:
    """Statistics are extreme but finite."""
    layer = kind(shape[0], eps=one_of(draw, (1e-5, 1e-3, 1e-9)), affine=draw(st.booleans()), dtype=torch.float64)
    variances, means, weights = (1.0, 1e-3, 4.0, 0.0, 1e-9, 1e9, 1e30), (0.0, 0.5, -20.0, 1e-6), (1.0, -1.0, 0.3, 0.0)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    for channel in range(shape[0]):
        layer.running_mean[channel] = one_of(draw, means)
        layer.running_var[channel] = one_of(draw, variances)
        if layer.affine:
            layer.weight.data[channel] = one_of(draw, weights)
    return layer


def elementwise(draw: Draw, shape: Shape) -> nn.Module:
    constants = (None, torch.tensor(0.5), *(torch.randn(each, generator=seeded(draw)) for each in _broadcast(shape)))
    scale, shift = one_of(draw, constants), one_of(draw, constants)
    return ElementwiseAffine(torch.tensor(-2.0) if scale is shift is None else scale, shift)


def _broadcast(shape: Shape) -> tuple[Shape, ...]:
    """Return shapes of constants: one a neuron, or one a channel."""
    return shape, (1, shape[0], *(1 for _ in shape[1:]))


def permute(draw: Draw, shape: Shape) -> nn.Module:
    return Permute((0, *draw(st.permutations(range(1, len(shape) + 1)))))


def unflatten(draw: Draw, shape: Shape) -> nn.Module:
    rows = one_of(draw, [each for each in range(1, shape[0] + 1) if shape[0] % each == 0])
    return nn.Unflatten(1, (rows, shape[0] // rows))


def hardtanh(draw: Draw, shape: Shape) -> nn.Module:
    low, high = one_of(draw, ((-1.0, 1.0), (-0.1, 0.3), (0.0, 0.2), (-3.0, -0.05)))
    return nn.Hardtanh(low, high)


def leaky(draw: Draw, shape: Shape) -> nn.Module:
    return nn.LeakyReLU(one_of(draw, (0.01, 0.2, 0.0, -0.7, 1.5)))


def prelu(draw: Draw, shape: Shape) -> nn.Module:
    layer = nn.PReLU(one_of(draw, (1, shape[0])))
    with torch.no_grad():
        layer.weight.uniform_(-1.2, 1.4, generator=seeded(draw))
    return layer


def householder(draw: Draw, shape: Shape) -> nn.Module:
    layer, angles = Householder(shape[0]), 6.2832 * torch.rand(shape[0] // 2, generator=seeded(draw))
    layer.directions.data = one_of(draw, (1.0, 0.3, 40.0)) * torch.stack((angles.cos(), angles.sin()))
    return layer if draw(st.integers(0, 3)) else Householder(shape[0])


def softplus(draw: Draw, shape: Shape) -> nn.Module:
    return nn.Softplus(one_of(draw, (1.0, 3.0)), threshold=60)


def gelu(draw: Draw, shape: Shape) -> nn.Module:
    return nn.GELU(one_of(draw, ("none", "tanh")))


def max_pool(draw: Draw, shape: Shape) -> nn.Module:
    kernel = tuple(draw(st.integers(1, min(3, side))) for side in shape[1:])
    stride = None if draw(st.booleans()) else tuple(draw(st.integers(1, 3)) for _ in kernel)
    padding = tuple(draw(st.integers(0, side // 2)) for side in kernel)
    return nn.MaxPool2d(kernel, stride, padding, ceil_mode=draw(st.booleans()))  # type: ignore[arg-type]


def bare(make: Callable[[], nn.Module], draw: Draw, shape: Shape) -> nn.Module:
    """A layer without arguments that matter."""
    return make()


def clipped_relu(draw: Draw, shape: Shape) -> nn.Module:
    return ClippedReLU(_thresholds(draw, shape), one_of(draw, (0.5, 0.0, 1e-6, 1e6)))


def clipped_max_min(draw: Draw, shape: Shape) -> nn.Module:
    high, low = one_of(draw, ((0.5, -0.5), (0.1, 0.1), (-0.2, 0.2), (1e6, -1e6)))  # some cross
    return ClippedMaxMin((shape[0], *_thresholds(draw, shape)[1:]), high, low)


def _thresholds(draw: Draw, shape: Shape) -> Shape:
    """Draw the shape of thresholds: one a neuron, or one a channel."""
    return shape if draw(st.booleans()) else (shape[0], *(1 for _ in shape[1:]))


DRAWN: dict[type[nn.Module], tuple[int, Callable[[Shape], bool], Callable[[Draw, Shape], nn.Module]]] = {
    nn.Linear: (4, lambda shape: True, linear),
    nn.Conv2d: (5, lambda shape: len(shape) == 3, any_convolution),
    nn.ConvTranspose2d: (2, lambda shape: len(shape) == 3, transposed),
    GroupSort2: (2, lambda shape: shape[0] % 2 == 0, partial(bare, GroupSort2)),
    nn.AdaptiveAvgPool2d: (2, lambda shape: len(shape) == 3, adaptive_pool),
    nn.ZeroPad2d: (1, lambda shape: len(shape) == 3, partial(padding, nn.ZeroPad2d)),
    nn.CircularPad2d: (1, lambda shape: len(shape) == 3, partial(padding, nn.CircularPad2d)),
    nn.ReflectionPad2d: (1, lambda shape: len(shape) == 3, partial(padding, nn.ReflectionPad2d)),
    nn.ReplicationPad2d: (1, lambda shape: len(shape) == 3, partial(padding, nn.ReplicationPad2d)),
    nn.PixelShuffle: (
        1,
        lambda shape: len(shape) == 3 and shape[0] % 4 == 0,
        partial(bare, partial(nn.PixelShuffle, 2)),
    ),
    nn.PixelUnshuffle: (
        1,
        lambda shape: len(shape) == 3 and shape[1] % 2 == shape[2] % 2 == 0,
        partial(bare, partial(nn.PixelUnshuffle, 2)),
    ),
    ChannelPad: (1, lambda shape: True, channel_pad),
    PairsToHalves: (1, lambda shape: shape[0] % 2 == 0, partial(bare, PairsToHalves)),
    HalvesToPairs: (1, lambda shape: shape[0] % 2 == 0, partial(bare, HalvesToPairs)),
    transforms.Normalize: (1, lambda shape: len(shape) == 3, partial(transform, transforms.Normalize)),
    v2.Normalize: (1, lambda shape: len(shape) == 3, partial(transform, v2.Normalize)),
    nn.ReLU: (2, lambda shape: True, partial(bare, nn.ReLU)),
    nn.ReLU6: (1, lambda shape: True, partial(bare, nn.ReLU6)),
    nn.Hardtanh: (1, lambda shape: True, hardtanh),
    nn.LeakyReLU: (1, lambda shape: True, leaky),
    nn.PReLU: (1, lambda shape: True, prelu),
    Abs: (1, lambda shape: True, partial(bare, Abs)),
    nn.MaxPool2d: (2, lambda shape: len(shape) == 3, max_pool),
    nn.Tanh: (1, lambda shape: True, partial(bare, nn.Tanh)),
    nn.Sigmoid: (1, lambda shape: True, partial(bare, nn.Sigmoid)),
    nn.SiLU: (1, lambda shape: True, partial(bare, nn.SiLU)),
    nn.GELU: (1, lambda shape: True, gelu),
    nn.Softplus: (1, lambda shape: True, softplus),
    ClippedReLU: (2, lambda shape: True, clipped_relu),
    Householder: (3, lambda shape: shape[0] % 2 == 0, householder),
    MaxMin: (3, lambda shape: shape[0] % 2 == 0, partial(bare, MaxMin)),
    ClippedMaxMin: (3, lambda shape: shape[0] % 2 == 0, clipped_max_min),
    nn.AvgPool2d: (3, lambda shape: len(shape) == 3, average_pool),
    Normalize: (2, lambda shape: True, normalize),
    nn.BatchNorm1d: (2, lambda shape: len(shape) < 3, partial(batch_norm, nn.BatchNorm1d)),
    nn.BatchNorm2d: (2, lambda shape: len(shape) == 3, partial(batch_norm, nn.BatchNorm2d)),
    nn.Flatten: (1, lambda shape: len(shape) > 1, partial(bare, nn.Flatten)),
    nn.Unflatten: (1, lambda shape: len(shape) == 1, unflatten),
    Permute: (1, lambda shape: len(shape) > 1, permute),
    ElementwiseAffine: (2, lambda shape: True, elementwise),
    nn.Identity: (1, lambda shape: True, partial(bare, nn.Identity)),
    nn.Dropout: (1, lambda shape: True, partial(bare, nn.Dropout)),
    nn.Dropout1d: (1, lambda shape: len(shape) == 2, partial(bare, nn.Dropout1d)),
    nn.Dropout2d: (1, lambda shape: len(shape) == 3, partial(bare, nn.Dropout2d)),
}
"""By type: how often it is drawn, for which shapes of inputs, and how."""

MIXING = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)

SMOOTH = (nn.Tanh, nn.Sigmoid, nn.SiLU, nn.GELU, nn.Softplus)
"""Activations of which nothing is certified as executed."""

BENT = (nn.LeakyReLU, nn.PReLU, Abs)

CLAMPS = (nn.ReLU, nn.ReLU6, nn.Hardtanh, ClippedReLU)

ACTIVATIONS = (*CLAMPS, *BENT, MaxMin, ClippedMaxMin, GroupSort2, Householder, nn.MaxPool2d, *SMOOTH)
