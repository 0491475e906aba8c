"""Dense matrices of the linear maps between activations, by impulse responses of the torch layers themselves."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lipcert.graph import LinearMap, is_affine

Matrix = NDArray[np.float64]

CHUNK = 2**22
"""Numbers of the impulse responses computed at a time."""


@dataclass(frozen=True)
class Segment:
    """A linear map between two activations.

    Attributes:
        apply: A h of a batch in float64 on the CPU, (B, *input_shape) to (B, *output_shape).
        input_shape, output_shape: without the batch.
        kind: the layers it is made of.
    """

    apply: Callable[[Tensor], Tensor]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    kind: str

    @property
    def entries(self) -> int:
        """Number of entries of the dense matrix."""
        return math.prod(self.input_shape) * math.prod(self.output_shape)

    @torch.no_grad()
    def matrix(self, rows: Tensor | None = None, columns: Tensor | None = None) -> Matrix:
        """Return the dense matrix, or those of its rows and columns that are numbered, (rows, columns)."""
        size = math.prod(self.input_shape)
        numbers = torch.arange(size) if columns is None else columns
        kept = math.prod(self.output_shape) if rows is None else len(rows)
        matrix = np.empty((kept, len(numbers)))
        step = max(1, CHUNK // max(size, math.prod(self.output_shape)))
        for first in range(0, len(numbers), step):
            chunk = numbers[first : first + step]
            impulses = torch.zeros(len(chunk), size, dtype=torch.float64)
            impulses[torch.arange(len(chunk)), chunk] = 1
            responses = self.apply(impulses.view(-1, *self.input_shape)).flatten(1)
            matrix[:, first : first + len(chunk)] = (responses if rows is None else responses[:, rows]).T.numpy()
        return matrix


def of_layers(layers: list[nn.Module], input_shape: tuple[int, ...]) -> Segment:
    """Return the segment of affine torch layers in a row, their shifts taken off."""
    chain = nn.Sequential(*layers)
    zero = torch.zeros(1, *input_shape, dtype=torch.float64)
    with torch.no_grad():
        shift = chain(zero)
    kind = " + ".join(type(layer).__name__ for layer in layers) or "Identity"
    return Segment(lambda impulses: chain(impulses) - shift, input_shape, tuple(shift.shape[1:]), kind)


def of_map(linear_map: LinearMap, device: torch.device) -> Segment:
    """Return the segment of a map as the bounds apply it, where it is no chain of layers (residual blocks)."""
    return Segment(
        lambda impulses: linear_map.apply(impulses.to(device)).cpu(),
        linear_map.input_shape,
        linear_map.output_shape,
        "residual sum",
    )


def _flat(model: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers of nested `Sequential`s in order; other containers as they are."""
    if not isinstance(model, nn.Sequential):
        yield name, model
        return
    for child_name, child in model._modules.items():
        if child is not None:
            yield from _flat(child, f"{name}.{child_name}" if name else child_name)


def segments(model: nn.Module, image_shape: tuple[int, ...]) -> dict[str, Segment]:
    """Return what lies before each activation of a chain of layers, by its name; nothing for other networks."""
    layers = list(_flat(copy.deepcopy(model).cpu().double().requires_grad_(False)))
    if any(any(layer.children()) for _, layer in layers):
        return {}
    found: dict[str, Segment] = {}
    pending: list[nn.Module] = []
    shape = image_shape
    for name, layer in layers:
        if not is_affine(type(layer)):
            found[name] = of_layers(pending, shape)
            shape, pending = found[name].output_shape, []
        else:
            pending.append(layer)
    return found
