"""Affine layers on images: convolutions, what pads, moves or pools pixels, and torchvision's normalisation."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import torch
from torch import Tensor, nn

from lipcert.nn import ChannelPad, HalvesToPairs, PairsToHalves
from lipcert.recheck.affine import Affine, describe, scaled, weighted


def _moved(module: nn.Module, name: str) -> Affine:
    """Return a layer that gives every input one place at most."""
    return Affine(name, module, module, module, module, module, operations=0, terms=1, monomial=True, disjoint=True)


for _kind in (nn.PixelShuffle, nn.PixelUnshuffle, ChannelPad, HalvesToPairs, PairsToHalves):
    describe.register(_kind, _moved)


@describe.register
def _(module: nn.ZeroPad2d, name: str) -> Affine:
    if module.value != 0:
        raise NotImplementedError(f"Layer {name!r} pads with {module.value}; only zeros can be re-checked.")
    return _moved(module, name)


def _repeated(module: nn.Module, name: str) -> Affine:
    """Return a padding that gives some pixels several places: each is one input, and counts as rounded."""
    return Affine(name, module, module, module, module, module, operations=1, terms=1)


describe.register(nn.CircularPad2d, _repeated)
describe.register(nn.ReflectionPad2d, _repeated)
describe.register(nn.ReplicationPad2d, _repeated)


@describe.register
def _(module: nn.Conv2d, name: str) -> Affine:
    plain = weighted(module, name, math.prod(module.weight.shape[1:]))
    if module.padding_mode == "zeros":
        return plain

    def squared(values: Tensor) -> Tensor:
        """Return what is at least W² v: (w₁ + … + wₙ)² <= n (w₁² + … + wₙ²), n weights of one pixel in a row."""
        return plain.squared(values) * _most_weights(module, values.shape[2:])

    return replace(plain, squared=squared)


def _most_weights(module: nn.Conv2d, sizes: torch.Size) -> int:
    """Return in how many places of one window a pixel can be, at most."""
    most = 1
    for axis, size in enumerate(sizes):
        kernel, dilation = module.kernel_size[axis], module.dilation[axis]
        if module.padding_mode == "circular":
            most *= min(kernel, -(-(dilation * (kernel - 1) + 1) // size))  # windows around the whole image
        elif module.padding_mode == "reflect":
            most *= min(kernel, 3)  # itself and its image at either border
        else:
            most *= kernel
    return most


@describe.register
def _(module: nn.ConvTranspose2d, name: str) -> Affine:
    inputs, _, height, width = module.weight.shape
    return weighted(module, name, inputs // module.groups * height * width)


@describe.register
def _(module: nn.AdaptiveAvgPool2d, name: str) -> Affine:
    def of_images(shape: tuple[int, ...]) -> Affine:
        wanted = module.output_size if isinstance(module.output_size, tuple) else (module.output_size,) * 2
        lengths = [
            torch.tensor([-(-(index + 1) * size // number) - index * size // number for index in range(number)])
            for size, number in ((size, number or size) for size, number in zip(shape[1:], wanted, strict=True))
        ]
        counts = (lengths[0][:, None] * lengths[1]).double()
        terms = int(counts.max())
        disjoint = all(int(each.sum()) == size for each, size in zip(lengths, shape[1:], strict=True))
        return Affine(
            name,
            whole=module,
            linear=module,
            absolute=module,
            squared=lambda values: module(values) / counts,
            magnitude=module,
            operations=terms + 1,
            terms=terms,
            growth=terms,
            disjoint=disjoint,
        )

    return replace(of_images((1, 1, 1)), of_images=of_images)


def register_transforms() -> None:
    """Add torchvision's Normalize, v1 and v2, where it is imported."""
    for place in ("torchvision.transforms.transforms", "torchvision.transforms.v2._misc"):
        kind = getattr(sys.modules.get(place), "Normalize", None)
        if kind is not None and kind not in describe.registry:
            describe.register(kind, _normalize)


def _normalize(module: nn.Module, name: str) -> Affine:
    mean, std = (torch.tensor(each, dtype=torch.float64).flatten() for each in (module.mean, module.std))
    if module.inplace or not bool((std > 0).all() and std.isfinite().all() and mean.isfinite().all()):
        raise NotImplementedError(f"Layer {name!r} normalises in place, or by numbers that are not positive.")
    return scaled(name, 1 / std, -mean / std, mean.abs() / std, 6, mean, [1 / std])
