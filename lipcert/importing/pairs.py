"""Channels that are cut apart, sorted in pairs and put together, as imported networks write it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from torch import nn

from lipcert.importing import operations as ops
from lipcert.importing.drawing import Drawing, Value, unsupported
from lipcert.nn import ChannelPad, HalvesToPairs, MaxMin, PairsToHalves, Permute


@dataclass(frozen=True)
class Extreme:
    """The larger of both halves of the channels of a value, or the smaller; a layer with the other one alone.

    `axis`: of a dimension of 1 that was put in, the batch counted; None for none.
    """

    value: Value
    larger: bool
    axis: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape without the batch."""
        sizes = [self.value.shape[0] // 2, *self.value.shape[1:]]
        if self.axis is not None:
            sizes.insert(self.axis - 1, 1)
        return tuple(sizes)


def stretched(node: str, extreme: Extreme, axis: int) -> Extreme:
    """Return an extreme with a dimension of 1 more.

    Raises:
        UnsupportedLayerError: for a second one, or one in front of the batch, naming the node.
    """
    axis %= len(extreme.shape) + 2
    if extreme.axis is not None or not axis:
        raise unsupported(node, "extreme", "only one dimension behind the batch can be put in.")
    return replace(extreme, axis=axis)


def reduced(drawing: Drawing, node: str, value: object, axis: int, keep: bool, larger: bool) -> Extreme:
    """Return the maximum or minimum along a dimension of two entries; `axis`: counts the batch.

    Raises:
        UnsupportedLayerError: for another dimension, naming the node.
    """
    if not isinstance(value, Value) or len(value.shape) < 2 or value.shape[axis % (len(value.shape) + 1) - 1] != 2:
        raise unsupported(node, "extreme", "only along dimensions of two entries, maxima and minima are supported.")
    axis %= len(value.shape) + 1
    if not axis:
        raise unsupported(node, "extreme", "it compares images.")
    order = (0, axis, *(each for each in range(1, len(value.shape) + 1) if each != axis))
    sizes = [value.shape[each - 1] for each in order[2:]]
    layers: list[nn.Module] = [Permute(order)] if order != tuple(range(len(order))) else []
    layers.append(nn.Flatten())
    if len(sizes) > 1:
        layers.append(nn.Unflatten(1, (2 * sizes[0], *sizes[1:])))
    for number, layer in enumerate(layers):
        value = _once(drawing, f"{node}_{number}", layer, value)
    return Extreme(value, larger, axis if keep else None)


def _once(drawing: Drawing, node: str, layer: nn.Module, value: Value) -> Value:
    """Append a layer that only moves entries, or return what the same one yields that is there."""
    for name, known in drawing.layers.items():
        if repr(known) == repr(layer) and drawing.sources[name] == (value.name,):
            shape = tuple(known(drawing.like.new_zeros(1, *value.shape)).shape[1:])
            return Value(name, shape)
    return drawing.apply(node, layer, value)


def every_second(drawing: Drawing, node: str, value: Value, first: int) -> Value:
    """Append what cuts out every second channel, from `first`, 0 or 1, on.

    Raises:
        UnsupportedLayerError: for an odd number of channels, naming the node.
    """
    if value.shape[0] % 2 or first not in (0, 1):
        raise unsupported(node, "slice", "only one of every two channels can be cut out.")
    halves, half = _once(drawing, f"{node}_halves", PairsToHalves(), value), value.shape[0] // 2
    return channels(drawing, node, halves, first * half, (first + 1) * half)


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
        len(parts) != 2
        or not (isinstance(first, Extreme) and isinstance(second, Extreme))
        or (first.value, first.axis) != (second.value, second.axis)
        or first.larger == second.larger
        or axis % (len(first.shape) + 1) != (first.axis or 1)
    ):
        raise unsupported(node, "concatenation", "only channels of values, or both extremes of one, are put together.")
    ordered = drawing.apply(node, MaxMin(), first.value)
    if not first.larger:
        pairs = drawing.apply(f"{node}_pairs", HalvesToPairs(), ordered)
        ordered = drawing.apply(f"{node}_swapped", PairsToHalves(), pairs)
    if first.axis is None:
        return ordered
    rest = range(2, len(first.shape) + 1)  # the dimension of two comes first, and goes to its place
    apart = ops.reshaped(drawing, node, ordered, (2, ordered.shape[0] // 2, *ordered.shape[1:]))
    return ops.permuted(drawing, node, apart, (0, *rest[: first.axis - 1], 1, *rest[first.axis - 1 :]))


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
