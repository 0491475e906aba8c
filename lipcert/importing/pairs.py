"""Sorted pairs, as imported networks write them: by sorts of two, or by maxima and minima of two halves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lipcert.importing import operations as ops
from lipcert.importing.drawing import Drawing, Shape, Value, unsupported
from lipcert.nn import HalvesToPairs, MaxMin, PairsToHalves


@dataclass(frozen=True)
class Half:
    """The first or the second half of the channels of a value."""

    value: Value
    second: bool

    @property
    def shape(self) -> Shape:
        """Shape without the batch."""
        return (self.value.shape[0] // 2, *self.value.shape[1:])


@dataclass(frozen=True)
class Extreme(Half):
    """The larger of both halves of a value, or the smaller as `second`."""


def halves(node: str, value: object, axis: int, sizes: Sequence[int]) -> tuple[Half, Half]:
    """Return both halves of a value.

    Raises:
        UnsupportedLayerError: for other parts, naming the node.
    """
    if not isinstance(value, Value) or axis != 1 or len(sizes) != 2 or sizes[0] != sizes[1]:
        raise unsupported(node, "split", "only halves of channels are supported, to be sorted.")
    return Half(value, False), Half(value, True)


def extreme(node: str, first: object, second: object, larger: bool) -> Extreme:
    """Return the maximum or minimum of both halves of a value.

    Raises:
        UnsupportedLayerError: for anything else, naming the node.
    """
    if (
        isinstance(first, Extreme)
        or not (isinstance(first, Half) and isinstance(second, Half) and first.value == second.value)
        or first.second == second.second
    ):
        raise unsupported(node, "extreme", "only a value and a number, or both halves of a value, are compared.")
    return Extreme(first.value, second=not larger)


def joined(drawing: Drawing, node: str, parts: Sequence[object], axis: int) -> Value:
    """Append the sorted pairs that larger and smaller halves make in either order.

    Raises:
        UnsupportedLayerError: for anything else that is put together, naming the node.
    """
    first, second = (*parts, None, None)[:2]
    if (
        axis != 1
        or len(parts) != 2
        or not (isinstance(first, Extreme) and isinstance(second, Extreme) and first.value == second.value)
        or first.second == second.second
    ):
        raise unsupported(node, "concatenation", "only the larger and the smaller of both halves are put together.")
    ordered = drawing.apply(node, MaxMin(), first.value)
    if not first.second:
        return ordered
    return drawing.apply(f"{node}_swapped", PairsToHalves(), drawing.apply(f"{node}_pairs", HalvesToPairs(), ordered))


def sorted_pairs(drawing: Drawing, node: str, value: Value, axis: int, descending: bool) -> Value:
    """Append a sort along a dimension of two entries; `axis`: counts the batch.

    Raises:
        UnsupportedLayerError: for a longer dimension, naming the node.
    """
    axis %= len(value.shape) + 1
    if not axis or value.shape[axis - 1] != 2:
        raise unsupported(node, "sort", f"only dimensions of two can be sorted, of {(*'B', *value.shape)} not {axis}.")
    rest = [each for each in range(1, len(value.shape) + 1) if each != axis]
    sizes = tuple(value.shape[each - 1] for each in rest)
    front = ops.reshaped(drawing, node, ops.permuted(drawing, node, value, (0, axis, *rest)), (2 * math.prod(sizes),))
    ordered = drawing.apply(node, MaxMin(), front)
    if descending:
        back = ops.reshaped(drawing, node, ordered, (2, *sizes))
        order = [1 if each == axis else each + 1 if each < axis else each for each in range(1, len(value.shape) + 1)]
    else:
        back = ops.reshaped(drawing, node, drawing.apply(node, HalvesToPairs(), ordered), (*sizes, 2))
        last = len(value.shape)
        order = [last if each == axis else each if each < axis else each - 1 for each in range(1, last + 1)]
    return ops.permuted(drawing, node, back, (0, *order))
