"""Layers that move pixels and channels, pad or cut off: their rows in the table of affine layers."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from lipcert.graph.compile import operator
from lipcert.graph.operators import Operator, Permutation, Selection, Shape
from lipcert.graph.padding import Padding, padded
from lipcert.nn import UnsupportedLayerError
from lipcert.nn.channels import ChannelPad, HalvesToPairs, PairsToHalves

PADDING_MODES: dict[type[nn.Module], str] = {
    nn.ZeroPad2d: "constant",
    nn.CircularPad2d: "circular",
    nn.ReflectionPad2d: "reflect",
    nn.ReplicationPad2d: "replicate",
}


def _pad(layer: nn.ZeroPad2d, input_shape: Shape) -> Operator:
    _require_images(layer, input_shape)
    mode = next(mode for kind, mode in PADDING_MODES.items() if isinstance(layer, kind))
    left, right, top, bottom = layer.padding
    if mode == "constant" and layer.value != 0:
        raise UnsupportedLayerError(f"a {type(layer).__name__} with value={layer.value} pads with something else.")
    if mode != "constant" and min(layer.padding) < 0:
        raise UnsupportedLayerError(f"a {type(layer).__name__} pads by {layer.padding}, which cuts off.")
    return padded(input_shape, Padding((left, right, top, bottom), mode))


for _kind in PADDING_MODES:
    operator.register(_kind, _pad)


@operator.register
def _(layer: nn.PixelUnshuffle, input_shape: Shape) -> Operator:
    _require_images(layer, input_shape)
    channels, height, width = input_shape
    factor = layer.downscale_factor
    if height % factor or width % factor:
        raise UnsupportedLayerError(f"a PixelUnshuffle by {factor} does not divide {height} x {width} pixels.")
    smaller = (channels * factor**2, height // factor, width // factor)
    return Permutation(input_shape, smaller, layer, nn.PixelShuffle(factor))


@operator.register
def _(layer: nn.PixelShuffle, input_shape: Shape) -> Operator:
    _require_images(layer, input_shape)
    channels, height, width = input_shape
    factor = layer.upscale_factor
    if channels % factor**2:
        raise UnsupportedLayerError(f"a PixelShuffle by {factor} does not divide {channels} channels.")
    larger = (channels // factor**2, height * factor, width * factor)
    return Permutation(input_shape, larger, layer, nn.PixelUnshuffle(factor))


def _require_images(layer: nn.Module, shape: Shape) -> None:
    if len(shape) != 3:
        raise UnsupportedLayerError(f"a {type(layer).__name__} takes images (C, height, width), got {shape}.")


@dataclass(frozen=True)
class _Channels:
    """Adds or cuts off channels of (B, C, ...)."""

    before: int
    after: int

    def __call__(self, values: Tensor) -> Tensor:
        return F.pad(values, (*(0, 0) * (values.dim() - 2), self.before, self.after))


@operator.register
def _(layer: ChannelPad, input_shape: Shape) -> Operator:
    channels = input_shape[0] + layer.before + layer.after
    if channels < 1 or min(layer.before, 0) + min(layer.after, 0) <= -input_shape[0]:
        raise UnsupportedLayerError(f"a ChannelPad by {layer.before} and {layer.after} leaves no channel.")
    forth, back = _Channels(layer.before, layer.after), _Channels(-layer.before, -layer.after)
    shape = (channels, *input_shape[1:])
    return Selection(input_shape, shape, forth, back, orthogonal_rows=True, elementwise=True)


@operator.register
def _(layer: PairsToHalves, input_shape: Shape) -> Operator:
    _require_pairs(layer, input_shape)
    return Permutation(input_shape, input_shape, layer, _halves_back)


@operator.register
def _(layer: HalvesToPairs, input_shape: Shape) -> Operator:
    _require_pairs(layer, input_shape)
    return Permutation(input_shape, input_shape, layer, _pairs_back)


def _halves_back(values: Tensor) -> Tensor:
    """Move channels k of both halves to (2k, 2k + 1)."""
    return values.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


def _pairs_back(values: Tensor) -> Tensor:
    """Move channels (2k, 2k + 1) to k of the second and of the first half."""
    return values.unflatten(1, (-1, 2)).transpose(1, 2).flip(1).flatten(1, 2)


def _require_pairs(layer: nn.Module, shape: Shape) -> None:
    if shape[0] % 2:
        raise UnsupportedLayerError(f"a {type(layer).__name__} pairs channels, of which {shape} has an odd number.")
