"""Dense matrices of the linear maps between activations, by impulse responses of the torch layers themselves."""

from __future__ import annotations

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
def _of_layers(layers: list[nn.Module], input_shape: tuple[int, ...]) -> Segment:
    """Return the segment of affine torch layers in a row, their shifts taken off."""
    chain = nn.Sequential(*layers)
    shift = chain(torch.zeros(1, *input_shape, dtype=torch.float64))
    kind = " + ".join(type(layer).__name__ for layer in layers) or "Identity"
    return Segment(lambda impulses: chain(impulses) - shift, input_shape, tuple(shift.shape[1:]), kind)


def segments(model: nn.Module, image_shape: tuple[int, ...]) -> dict[str, Segment]:
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
