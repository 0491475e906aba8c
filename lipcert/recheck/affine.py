"""What the re-check needs of an affine layer: its matrix, its moduli, its squares and its rounding, all in float64."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import singledispatch

import torch
from torch import Tensor, nn

from lipcert.nn import ElementwiseAffine, Normalize, Permute

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Affine:
    """The map v -> W v + b of one layer; all functions take and return (B, ...) in float64.

    `whole`: v -> W v + b; `linear`: v -> W v; `absolute`: v -> |W| v; `squared`: v -> W² v, entrywise.
    `magnitude`: m -> |W| m + offset, what relative rounding errors multiply when |v| <= m.
    `operations`: the count of roundings on the way to one output (0: exact); `terms`: the fan-in of one output.
    `growth`, `shift`: what is computed on the way, and the factors it meets, stay below growth (1 + shift + max |v|).
    `counted`: v -> [W ≠ 0] v, for layers that add up products and a bias, in any order; None for others.
    `monomial`: one entry at most in every row and column; `disjoint`: no input feeds two outputs.
    `of_images`: makes the map for inputs of a shape without the batch, where counts depend on it.
    """

    name: str
    whole: Function
    linear: Function
    absolute: Function
    squared: Function
    magnitude: Function
    operations: int
    terms: int
    growth: float = 1.0
    shift: float = 0.0
    counted: Function | None = None
    monomial: bool = False
    disjoint: bool = False
    of_images: Callable[[tuple[int, ...]], Affine] | None = None


@singledispatch
def describe(module: nn.Module, name: str) -> Affine:
    """Return the affine map of a layer.

    Raises:
        NotImplementedError: for a layer that is not affine or not known.
    """
    raise NotImplementedError(f"Layer {name!r} ({type(module).__name__}) cannot be re-checked.")


def _with_weight(module: nn.Conv2d | nn.ConvTranspose2d | nn.Linear, weight: Tensor, bias: Tensor | None) -> nn.Module:
    twin = copy.deepcopy(module)
    twin.weight = nn.Parameter(weight, requires_grad=False)
    twin.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
    return twin


def weighted(module: nn.Conv2d | nn.ConvTranspose2d | nn.Linear, name: str, terms: int) -> Affine:
    """Return a layer of sums of products, so many `terms` at most, and a bias."""
    weight = module.weight.detach().double()
    bias = None if module.bias is None else module.bias.detach().double()
    return Affine(
        name=name,
        whole=_with_weight(module, weight, bias),
        linear=_with_weight(module, weight, None),
        absolute=_with_weight(module, weight.abs(), None),
        squared=_with_weight(module, weight.square(), None),
        magnitude=_with_weight(module, weight.abs(), None if bias is None else bias.abs()),
        operations=terms + 1,  # a product, a sum with every other product and with the bias
        terms=terms,
        counted=_with_weight(module, (weight != 0).double(), None),
    )


@describe.register
def _(module: nn.Linear, name: str) -> Affine:
    return weighted(module, name, module.in_features)


@describe.register
def _(module: nn.Flatten, name: str) -> Affine:
    if module.start_dim < 1:
        raise NotImplementedError(f"Layer {name!r} flattens the batch; it cannot be re-checked.")
    return _moved(module, name)


@describe.register
def _(module: nn.Unflatten, name: str) -> Affine:
    if module.dim < 1:
        raise NotImplementedError(f"Layer {name!r} unflattens the batch; it cannot be re-checked.")
    return _moved(module, name)


@describe.register
def _(module: Permute, name: str) -> Affine:
    if module.order[0] != 0:
        raise NotImplementedError(f"Layer {name!r} moves the batch; it cannot be re-checked.")
    return _moved(module, name)


def _moved(module: nn.Module, name: str) -> Affine:
    """Return a layer that moves entries."""
    return Affine(name, module, module, module, module, module, operations=0, terms=1, monomial=True, disjoint=True)


@describe.register
def _(module: nn.AvgPool2d, name: str) -> Affine:
    kernel = _pair(module.kernel_size)
    stride = _pair(module.stride)
    terms = kernel[0] * kernel[1]
    sums = nn.AvgPool2d(module.kernel_size, module.stride, module.padding, module.ceil_mode, divisor_override=1)

    def squared(values: Tensor) -> Tensor:
        ones = torch.ones_like(values)
        return module(values) * (module(ones) / sums(ones))

    disjoint = kernel[0] <= stride[0] and kernel[1] <= stride[1]
    return Affine(name, module, module, module, squared, module, terms + 1, terms, terms, disjoint=disjoint)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *(1 for _ in range(like.dim() - 2)))


def scaled(
    name: str, scale: Tensor, shift: Tensor, offset: Tensor, operations: int, mean: Tensor, factors: Sequence[Tensor]
) -> Affine:
    """Return v -> scale v + shift, vectors of one entry a channel, executed as (v - mean) times all `factors`.

    `offset` goes into `magnitude`.
    """
    return Affine(
        name=name,
        whole=lambda values: _per_channel(scale, values) * values + _per_channel(shift, values),
        linear=lambda values: _per_channel(scale, values) * values,
        absolute=lambda values: _per_channel(scale.abs(), values) * values,
        squared=lambda values: _per_channel(scale.square(), values) * values,
        magnitude=lambda values: _per_channel(scale.abs(), values) * values + _per_channel(offset, values),
        operations=operations,
        terms=1,
        growth=math.prod(float(factor.abs().clamp_min(1).max()) for factor in factors),
        shift=float(mean.abs().max()),
        monomial=True,
        disjoint=True,
    )


@describe.register
def _(module: Normalize, name: str) -> Affine:
    mean, std = module.mean.double(), module.std.double()
    return scaled(name, 1 / std, -mean / std, mean.abs() / std, 4, mean, [1 / std])


@describe.register
def _(module: ElementwiseAffine, name: str) -> Affine:
    one = torch.ones((), dtype=torch.float64)
    scale = one if module.scale is None else module.scale.detach().double()
    shift = 0 * one if module.shift is None else module.shift.detach().double()
    return Affine(
        name=name,
        whole=lambda values: values * scale + shift,
        linear=lambda values: values * scale,
        absolute=lambda values: values * scale.abs(),
        squared=lambda values: values * scale.square(),
        magnitude=lambda values: values * scale.abs() + shift.abs(),
        operations=2,
        terms=1,
        growth=float(scale.abs().max().clamp_min(1)),
        shift=float(shift.abs().max()),
        monomial=True,
        disjoint=True,
    )


def _batch_norm(module: nn.BatchNorm1d | nn.BatchNorm2d, name: str) -> Affine:
    if module.training or module.running_mean is None or module.running_var is None:
        raise NotImplementedError(f"Layer {name!r} normalises by the batch; put the network into eval mode.")
    mean, variance = module.running_mean.double(), module.running_var.double()
    weight = torch.ones_like(mean) if module.weight is None else module.weight.detach().double()
    bias = torch.zeros_like(mean) if module.bias is None else module.bias.detach().double()
    root = (variance + module.eps).rsqrt()
    scale = weight * root
    return scaled(name, scale, bias - scale * mean, scale.abs() * mean.abs() + bias.abs(), 8, mean, [root, weight])


describe.register(nn.BatchNorm1d, _batch_norm)
describe.register(nn.BatchNorm2d, _batch_norm)
