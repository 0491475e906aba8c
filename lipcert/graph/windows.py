"""Max pooling: an activation that makes one output of a window of pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipcert.graph.activations import Enclosed, Lines, register_activation
from lipcert.graph.compile import pair
from lipcert.graph.operators import Box, Shape
from lipcert.nn import UnsupportedLayerError

Sizes = tuple[int, int]


@dataclass(frozen=True, eq=False)
class WindowMaximum(Enclosed):
    """The largest pixel of each window, channel by channel: monotone, and exact as executed.

    Its Lipschitz constant in l2 is the root of the number of windows that a pixel is in, at most: each output moves by
    no more than the pixel of its window that moves most.
    """

    kernel: Sizes
    stride: Sizes
    padding: Sizes
    dilation: Sizes
    ceil_mode: bool
    windows: int

    @property
    def lipschitz(self) -> float | None:  # type: ignore[override]
        return None if self.windows == 1 else math.sqrt(self.windows) * (1 + 1e-12)

    def output_shape(self, shape: Shape) -> Shape:
        return tuple(self.apply(torch.zeros(1, *shape)).shape[1:])

    def apply(self, inputs: Tensor) -> Tensor:
        return F.max_pool2d(inputs, self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode)

    def range(self, lower: Tensor, upper: Tensor) -> Box:
        return self.apply(lower), self.apply(upper)

    @torch.no_grad()
    def needed(self, lower: Tensor, upper: Tensor) -> Tensor:
        # A pixel that another of the window never falls below decides nothing there.
        least, needed = self.apply(lower), torch.zeros_like(upper)
        for outputs, rows, columns in self._taps(lower.shape[2:], least.shape[2:]):
            reaches = ~(upper[:, :, rows, columns] <= least[:, :, outputs[0], outputs[1]])
            needed[:, :, rows, columns] = torch.maximum(needed[:, :, rows, columns], reaches.to(needed))
        return needed

    def _taps(self, inputs: torch.Size, outputs: torch.Size) -> Iterator[tuple[tuple[slice, slice], slice, slice]]:
        """Yield, for every place in a window, which outputs have a pixel there, and its rows and columns."""
        for row in range(self.kernel[0]):
            for column in range(self.kernel[1]):
                ends = [self._reach(axis, tap, inputs, outputs) for axis, tap in enumerate((row, column))]
                if all(first < last for first, last, _ in ends):
                    pixels = [
                        slice(start, start + (last - first - 1) * self.stride[axis] + 1, self.stride[axis])
                        for axis, (first, last, start) in enumerate(ends)
                    ]
                    yield (slice(*ends[0][:2]), slice(*ends[1][:2])), pixels[0], pixels[1]

    def _reach(self, axis: int, tap: int, inputs: torch.Size, outputs: torch.Size) -> tuple[int, int, int]:
        """Return the first output and one past the last whose pixel at `tap` is inside, and that pixel of the first."""
        stride, shift = self.stride[axis], self.dilation[axis] * tap - self.padding[axis]
        first = max(0, -(shift // stride))
        last = min(outputs[axis], (inputs[axis] - 1 - shift) // stride + 1)
        return first, last, first * stride + shift

    def lines(self, lower: Tensor, upper: Tensor) -> Lines:
        """Return the pixel with the largest lower end, m, below; above, chords of all max(pixel, m), or a constant.

        The maximum is m + max of all max(pixel - m, 0), at most m + their sum.
        """
        least, most = self.apply(lower), self.apply(upper)
        taps = list(self._taps(lower.shape[2:], least.shape[2:]))
        lows, highs = (torch.stack([self._at(end, *tap, least.shape) for tap in taps], dim=1) for end in (lower, upper))
        below = F.one_hot(lows.argmax(dim=1), len(taps)).movedim(-1, 1).to(lower)
        rises = highs > least.unsqueeze(1)
        shares = torch.where(rises, (highs - least.unsqueeze(1)) / (highs - lows), 0)
        started = torch.where(rises, shares * lows, 0).sum(dim=1)
        middle = torch.where(rises, shares * (highs + lows) / 2, 0).sum(dim=1)
        constant = ~(least - started + middle <= most)  # NaN is not
        above = torch.where(constant.unsqueeze(1), 0, shares)
        size = self.apply(torch.maximum(lower.abs(), upper.abs()))
        slack = 16 * len(taps) * torch.finfo(lower.dtype).eps * size
        return Lines(below, torch.zeros_like(least), above, torch.where(constant, most, least - started + slack))

    def gathered(self, slopes: Tensor, shape: Shape) -> Tensor:
        found = slopes.new_zeros(len(slopes), *shape)
        for number, (outputs, rows, columns) in enumerate(self._taps(found.shape[2:], slopes.shape[3:])):
            found[:, :, rows, columns] += slopes[:, number, :, outputs[0], outputs[1]]
        return found

    @staticmethod
    def _at(values: Tensor, outputs: tuple[slice, slice], rows: slice, columns: slice, shape: torch.Size) -> Tensor:
        """Return the pixel of each window at a place in it, (B, *output_shape), -infinity where it is outside."""
        found = values.new_full(shape, -torch.inf)
        found[:, :, outputs[0], outputs[1]] = values[:, :, rows, columns]
        return found

    def rounding(self, entries: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        return self.apply(entries)  # an output's error is at most the largest of its window


def _max_pool(layer: nn.MaxPool2d, shape: Shape) -> WindowMaximum:
    if len(shape) != 3:
        raise UnsupportedLayerError(f"a MaxPool2d takes images (C, height, width), got {shape}.")
    if layer.return_indices:
        raise UnsupportedLayerError("a MaxPool2d with return_indices=True returns more than values.")
    kernel, dilation = pair(layer.kernel_size), pair(layer.dilation)
    stride = kernel if layer.stride is None else pair(layer.stride)
    windows = math.prod(_windows(kernel[axis], stride[axis], dilation[axis]) for axis in (0, 1))
    return WindowMaximum(kernel, stride, pair(layer.padding), dilation, layer.ceil_mode, windows)


def _windows(kernel: int, stride: int, dilation: int) -> int:
    """Return in how many windows of a row a pixel is, at most: whose taps are at its place, modulo the stride."""
    places = [dilation * tap % stride for tap in range(kernel)]
    return max(places.count(place) for place in places)


register_activation(nn.MaxPool2d, _max_pool)
