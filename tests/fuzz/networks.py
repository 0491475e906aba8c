"""Draws what is certified: a tree of layers, images around one of them, radii around the nearest class."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from lipcert.nn import LayerGraph, Residual, Sum, folded
from tests.fuzz.layers import ACTIVATIONS, DRAWN, MIXING, SMOOTH, Draw, Shape, one_of, seeded, weighted
from tests.fuzz.placement import Placement, place_kinks, place_logits, sphere
from tests.fuzz.weights import KINDS, filled

CONTAINERS = (nn.Sequential, Residual, LayerGraph, Sum)

LARGEST = 160
"""Entries of a layer, at most, behind which nothing is added but a way to the logits."""


@dataclass
class Case:
    """What is certified and attacked.

    Attributes:
        model: as executed, in eval mode, folded.
        images: (N, ...), pixels in [0, 1]; labels: (N,).
        scale: about how far the nearest class is, l2.
        factors: radii in units of each image's distance to another class, (N,).
        clip_input: the adversary uses pixels in [0, 1] alone.
        arithmetic: of certificates.
        lanczos: norms of small maps, too, are bounded by Lanczos.
        seed: of attacks.
    """

    model: nn.Module
    images: Tensor
    labels: Tensor
    scale: float
    factors: Tensor
    clip_input: bool
    arithmetic: str
    lanczos: bool
    seed: int


def _behind(layer: nn.Module, shape: Shape) -> Shape:
    """Return the shape behind a layer."""
    with torch.no_grad():
        return tuple(layer.eval()(torch.zeros(1, *shape, dtype=torch.float64)).shape[1:])


def _layer(draw: Draw, shape: Shape, kinds: tuple[type[nn.Module], ...] = tuple(DRAWN)) -> nn.Module:
    fitting = [kind for kind in kinds if DRAWN[kind][1](shape)]
    kind = one_of(draw, [kind for kind in fitting for _ in range(DRAWN[kind][0])])
    return DRAWN[kind][2](draw, shape).double()


def _chain(draw: Draw, shape: Shape, depth: int, longest: int) -> list[nn.Module]:
    """Draw layers in a row: layers that mix before activations, other layers, blocks within blocks."""
    layers: list[nn.Module] = []
    for _ in range(draw(st.integers(1, longest))):
        part = one_of(draw, ("bend", "bend", "bend", "layer", "residual", "nested") if depth else ("bend", "layer"))
        if math.prod(shape) > LARGEST:
            break
        if part == "residual":
            added = [_residual(draw, shape, depth - 1)]
        elif part == "nested":
            added = [nn.Sequential(*_chain(draw, shape, depth - 1, 2))]
        elif part == "layer":
            added = [_layer(draw, shape)]
        else:
            mixing = _layer(draw, shape, MIXING)
            added = [mixing, _layer(draw, _behind(mixing, shape), ACTIVATIONS)]
        for layer in added:
            layers.append(layer)
            shape = _behind(layer, shape)
    return layers


def _residual(draw: Draw, shape: Shape, depth: int) -> nn.Module:
    """Draw a block: a branch, and a shortcut that brings its input to the branch's shape; or a graph of more sums."""
    branch = nn.Sequential(*_chain(draw, shape, depth, 2))
    wanted = _behind(branch, shape)
    if wanted == shape and draw(st.booleans()):
        return Residual(branch)
    shortcut = nn.Sequential(*_between(draw, shape, wanted))
    if draw(st.booleans()):
        return Residual(branch, shortcut)
    layers = {"branch": branch, "shortcut": shortcut, "sum": Sum(), "bend": nn.ReLU(), "twice": Sum(), "total": Sum()}
    second = one_of(draw, ("branch", "sum", "bend", "shortcut"))
    sums = {"sum": ["branch", "shortcut"], "bend": ["sum"], "twice": ["bend", second], "total": ["twice", "twice"]}
    return LayerGraph(layers, {"branch": [""], "shortcut": [""], **sums})


def _between(draw: Draw, shape: Shape, wanted: Shape) -> list[nn.Module]:
    """Draw layers from one shape to another: what a branch makes of its input."""
    if shape[:-1] == wanted[:-1]:
        return [weighted(draw, nn.Linear(shape[-1], wanted[-1], dtype=torch.float64))]
    if len(wanted) < 3 or len(shape) < 3:
        flattened: list[nn.Module] = [nn.Flatten()] if len(shape) > 1 else []
        split = [nn.Unflatten(1, wanted)] if len(wanted) > 1 else []
        dense = nn.Linear(math.prod(shape), math.prod(wanted), dtype=torch.float64)
        return [*flattened, weighted(draw, dense), *split]
    padding = [max(0, math.ceil((target - side) / 2)) for side, target in zip(shape[1:], wanted[1:], strict=True)]
    kernel = [shape[1 + i] + 2 * padding[i] - wanted[1 + i] + 1 for i in (0, 1)]
    sizes = (kernel[0], kernel[1]), 1, (padding[0], padding[1])
    return [weighted(draw, nn.Conv2d(shape[0], wanted[0], *sizes, dtype=torch.float64))]


def _model(draw: Draw, shape: Shape) -> nn.Sequential:
    """Draw a network onto two classes or more, in float64."""
    body = nn.Sequential(*_chain(draw, shape, 2, 4))
    behind = _behind(body, shape)
    flat: list[nn.Module] = [nn.Flatten()] if len(behind) > 1 else []
    last = nn.Linear(math.prod(behind), draw(st.integers(2, 4)), dtype=torch.float64)
    with torch.no_grad():
        last.weight.copy_(filled(last.weight.shape, one_of(draw, tuple(KINDS)), False, seeded(draw)))
    return nn.Sequential(body, *flat, last).eval()


PICTURES = st.tuples(st.integers(1, 3), st.integers(2, 6), st.integers(2, 6))

SHAPES = st.one_of(st.tuples(st.integers(1, 6)), st.tuples(st.integers(1, 3), st.integers(1, 4)), PICTURES, PICTURES)
"""Of images: flat, rows, pictures."""

FACTORS = (0.999, 0.9, 1.0, 1.2, 0.5, 1e-2, 1e-5, 3.0)
"""Radii over the distance to the nearest class found; a few bounds of a few images lie in between."""


@st.composite
def cases(draw: Draw) -> Case:
    """Draw a network and images that stress its bounds."""
    shape = draw(SHAPES)
    generator = seeded(draw)
    dtype = one_of(draw, (torch.float32,) * 7 + (torch.float64,))
    scale = one_of(draw, (0.1, 1.0, 1e-2, 1e-4))
    clip_input, near = draw(st.booleans()) and draw(st.booleans()), one_of(draw, (0.15, 0.0, 0.5, 1.0))
    model = _model(draw, shape)
    image = 0.5 + 0.4 * (torch.rand(shape, generator=generator, dtype=torch.float64) - 0.5)
    if clip_input:
        image = image.round() if draw(st.booleans()) else image
    place_kinks(model, image, scale, Placement(near, one_of(draw, (0.8, 0.5, 1.0)), generator))
    place_logits(model, image, scale, generator)
    executed = folded(model.to(dtype))
    for layer in executed.modules():
        layer._load_state_dict_pre_hooks.clear()  # those of weight norm cannot be written to a file
    smooth = any(isinstance(layer, SMOOTH) for layer in model.modules())
    count = draw(st.integers(1, 4))
    around = [image, *(sphere(image, scale * share, 1, generator)[0] for share in (0.1, 0.5))]
    images = torch.stack([*around, torch.rand(shape, generator=generator, dtype=torch.float64)])[:count]
    images = images.clamp(0, 1).to(one_of(draw, (torch.float32, torch.float64)))
    with torch.no_grad():
        logits = executed(images.to(dtype))
    mistaken = torch.tensor([draw(st.integers(0, 11)) == 11 for _ in range(count)])
    labels = (logits.argmax(dim=1) + mistaken) % logits.shape[1]
    return Case(
        model=executed,
        images=images,
        labels=labels,
        scale=scale,
        factors=torch.tensor([one_of(draw, FACTORS) for _ in range(count)], dtype=torch.float64),
        clip_input=clip_input,
        arithmetic=one_of(draw, ("exact",) if smooth else ("executed", "exact")),
        lanczos=draw(st.integers(0, 15)) == 15,
        seed=draw(st.integers(0, 2**16)),
    )
