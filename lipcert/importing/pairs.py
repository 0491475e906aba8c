"""Channels that are cut apart, sorted in pairs and put together, as imported networks write it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from lipcert.importing import operations as ops
from lipcert.importing.drawing import Drawing, Value, unsupported
from lipcert.nn import ChannelPad, HalvesToPairs, MaxMin, PairsToHalves


@dataclass(frozen=True)
class Extreme:
    """The larger of both halves of the channels of a value, or the smaller; a layer with the other one alone."""

    value: Value
    larger: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape without the batch."""
        return (self.value.shape[0] // 2, *self.value.shape[1:])


def channels(drawing: Drawing, node: str, value: Value, first: int, last: int) -> Value:
    """Append what cuts out the channels from `first` to before `last`."""
    if (first, last) == (0, value.shape[0]):
        return value
    return drawing.apply(node, ChannelPad(-first, last - value.shape[0]), value)


def pieces(drawing: Drawing, node: str, value: object, axis: int, sizes: Sequence[int]) -> tuple[Value, ...]:
    """Append what cuts a value apart along its channels.

    Raises:
        UnsupportedLayerError: for another dimension, naming the node.
    """
    if not isinstance(value, Value) or axis % (len(value.shape) + 1) != 1:
        raise unsupported(node, "split", "only channels of values can be cut apart.")
    ends = list(accumulate(sizes))
    return tuple(
        channels(drawing, f"{node}_{number}", value, end - size, end)
        for number, (size, end) in enumerate(zip(sizes, ends, strict=True))
    )


def extreme(drawing: Drawing, node: str, first: object, second: object, larger: bool) -> Extreme:
    """Return the maximum or minimum of both halves of a value.

    Raises:
        UnsupportedLayerError: for anything else, naming the node.
    """
    if isinstance(first, Value) and isinstance(second, Value):
        places = [_place(drawing, each) for each in (first, second)]
        if set(places) == {(drawing.sources.get(first.name), 0), (drawing.sources.get(first.name), first.shape[0])}:
            (source,) = drawing.sources[first.name]
            return Extreme(Value(source, (2 * first.shape[0], *first.shape[1:])), larger)
    raise unsupported(node, "extreme", "only a value and a number, or both halves of a value, are compared.")


def _place(drawing: Drawing, half: Value) -> tuple[tuple[str, ...], int] | None:
    """Return what a value is half of, and its first channel there; None for another."""
    layer = drawing.layers.get(half.name)
    if not isinstance(layer, ChannelPad) or layer.before + layer.after != -half.shape[0]:
        return None
    return drawing.sources[half.name], -layer.before


def joined(drawing: Drawing, node: str, parts: Sequence[object], axis: int) -> Value:
    """Append the concatenation of channels: sorted pairs for both extremes of a value, sums of padded ones for values.

    Raises:
        UnsupportedLayerError: for anything else that is put together, naming the node.
    """
    values = [each for each in parts if isinstance(each, Value)]
    if len(values) == len(parts) and axis % (len(values[0].shape) + 1) == 1:
        return _concatenated(drawing, node, values)
    first, second = (*parts, None, None)[:2]
    if (
        axis != 1
        or len(parts) != 2
        or not (isinstance(first, Extreme) and isinstance(second, Extreme) and first.value == second.value)
        or first.larger == second.larger
    ):
        raise unsupported(node, "concatenation", "only channels of values, or both extremes of one, are put together.")
    ordered = drawing.apply(node, MaxMin(), first.value)
    if first.larger:
        return ordered
    return drawing.apply(f"{node}_swapped", PairsToHalves(), drawing.apply(f"{node}_pairs", HalvesToPairs(), ordered))


def _concatenated(drawing: Drawing, node: str, values: Sequence[Value]) -> Value:
    before, total, result = 0, sum(each.shape[0] for each in values), None
    for number, value in enumerate(values):
        pad = ChannelPad(before, total - before - value.shape[0])
        padded = drawing.apply(f"{node}_{number}", pad, value)
        result = padded if result is None else drawing.add(node, result, padded)
        before += value.shape[0]
    assert result is not None
    return result


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
