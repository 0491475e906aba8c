"""Dense matrices of the linear maps between activations, by impulse responses of the torch layers, or random parts."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lipcert.graph import LinearMap, is_affine

Matrix = NDArray[np.float64]

CHUNK = 2**22
"""Numbers of the impulse responses computed at a time."""

LARGEST_MATRIX = 4 * 10**7
"""Entries of a layer's matrix that is kept; of larger ones only parts are computed."""

LARGEST_WORK = 2 * 10**10
"""Rows times columns times the smaller of both, of a matrix that is decomposed as one: seconds each."""

PARTS = 12
"""Random parts of a layer that is too large, in turn for its masked norms."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Segment:
    """A linear map between two activations; `kind`: the layers it is made of.

    `apply`: A h of a batch in float64 on the CPU, (B, *input_shape) to (B, *output_shape).
    """

    apply: Callable[[Tensor], Tensor]
    input_shape: Shape
    output_shape: Shape
    kind: str

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the dense matrix, (outputs, inputs)."""
        return math.prod(self.output_shape), math.prod(self.input_shape)

    @torch.no_grad()
    def matrix(self, rows: Tensor | None = None, columns: Tensor | None = None) -> Matrix:
        """Return the dense matrix, or those of its rows and columns that are numbered, (rows, columns)."""
        _, inputs = self.shape
        kept = slice(None) if rows is None else rows
        columns = torch.arange(inputs) if columns is None else columns
        responses = []
        for chunk in columns.split(max(1, CHUNK // max(self.shape))):
            impulses = nn.functional.one_hot(chunk, inputs).double().view(-1, *self.input_shape)
            responses.append(self.apply(impulses).flatten(1)[:, kept])
        matrix: Matrix = torch.cat(responses).T.numpy()
        return matrix


def of_map(linear_map: LinearMap, device: torch.device) -> Segment:
    """Return the segment of a map as the bounds apply it, where it is no chain of layers (residual blocks)."""
    return Segment(
        lambda impulses: linear_map.apply(impulses.to(device)).cpu(),
        linear_map.input_shape,
        linear_map.output_shape,
        "residual sum",
    )


@torch.no_grad()
def _of_layers(layers: list[nn.Module], input_shape: Shape) -> Segment:
    """Return the segment of affine torch layers in a row, their shifts taken off."""
    chain = nn.Sequential(*layers)
    shift = chain(torch.zeros(1, *input_shape, dtype=torch.float64))
    kind = " + ".join(type(layer).__name__ for layer in layers) or "Identity"
    return Segment(lambda impulses: chain(impulses) - shift, input_shape, tuple(shift.shape[1:]), kind)


def segments(model: nn.Module, image_shape: Shape) -> dict[str, Segment]:
    """Return what lies before each activation of a chain of layers, by its name; nothing for other networks."""
    copied = copy.deepcopy(model).cpu().double().requires_grad_(False)
    layers = [each for each in copied.named_modules(remove_duplicate=False) if not isinstance(each[1], nn.Sequential)]
    if any(any(layer.children()) for _, layer in layers):
        return {}
    found: dict[str, Segment] = {}
    pending: list[nn.Module] = []
    shape = image_shape
    for name, layer in layers:
        pending.append(layer)
        if not is_affine(type(layer)):
            found[name] = _of_layers(pending[:-1], shape)
            shape, pending = found[name].output_shape, []
    return found


@dataclass(frozen=True)
class Part:
    """Some rows and columns of a layer's matrix, by masks (1, *shape); the matrix of what they leave."""

    rows: Tensor
    columns: Tensor
    matrix: Matrix

    def exact_norm(self, rows: Tensor, columns: Tensor) -> float:
        """Return the norm of what masks (1, *shape) leave of the part, by its singular values; 0 of nothing."""
        left_rows, left_columns = (
            mask.cpu()[part > 0].numpy() > 0 for mask, part in ((rows, self.rows), (columns, self.columns))
        )
        masked = self.matrix[left_rows][:, left_columns]
        return float(np.linalg.svd(masked, compute_uv=False)[0]) if masked.size else 0.0


class Layer:
    """One layer's dense matrix, where it is small enough, and random parts of it, built once each.

    `side`: outputs, and inputs, of a part; `generator`: of the parts.
    """

    def __init__(self, segment: Segment, side: int, generator: np.random.Generator) -> None:
        self.segment, self.side, self.generator = segment, side, generator
        self.whole: Part | None = None
        if math.prod(segment.shape) <= LARGEST_MATRIX:
            outputs, inputs = (torch.ones(1, *shape) for shape in (segment.output_shape, segment.input_shape))
            self.whole = Part(outputs, inputs, segment.matrix())
        self.parts: list[Part] = []

    def part_for(self, rows: Tensor, columns: Tensor, number: int) -> Part:
        """Return the whole layer where masks (1, *shape) leave little enough to be decomposed, else some part."""
        left = (int(rows.sum()), int(columns.sum()))
        if self.whole is not None and math.prod(left) * min(left) <= LARGEST_WORK:
            return self.whole
        if len(self.parts) < PARTS:
            masks = submasks(self.segment.output_shape, self.segment.input_shape, self.side, self.generator)
            places = (mask.flatten().nonzero()[:, 0] for mask in masks)
            self.parts.append(Part(*masks, self.segment.matrix(*places)))
        return self.parts[number % len(self.parts)]


def submasks(outputs: Shape, inputs: Shape, side: int, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return masks of outputs and inputs, (1, *shape), of about `side` entries each.

    Half of them are windows at the same place of both, as strongly coupled as the whole map, where the map is between
    images and `side` is not below their channels; the others are scattered.
    """
    images = len(inputs) == len(outputs) == 3 and side >= max(inputs[0], outputs[0])
    if images and generator.random() < 0.5:
        place = (generator.random(), generator.random())
        return _window(outputs, side, place), _window(inputs, side, place)
    return _scattered(outputs, side, generator), _scattered(inputs, side, generator)


def _scattered(shape: Shape, side: int, generator: np.random.Generator) -> Tensor:
    """Return a mask (1, *shape) of `side` entries anywhere, all where there are no more."""
    mask = torch.zeros(math.prod(shape), dtype=torch.float64)
    mask[torch.from_numpy(generator.permutation(len(mask))[:side])] = 1
    return mask.view(1, *shape)


def _window(shape: Shape, side: int, place: tuple[float, float]) -> Tensor:
    """Return a mask (1, C, H, W) of all channels in a square of at most `side` entries; `place`: in [0, 1]²."""
    mask = torch.zeros(1, *shape, dtype=torch.float64)
    length = max(1, math.isqrt(side // shape[0]))
    top, left = (round(each * max(0, size - length)) for each, size in zip(place, shape[1:], strict=True))
    mask[:, :, top : top + length, left : left + length] = 1
    return mask
