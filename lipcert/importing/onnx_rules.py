"""Which nodes of ONNX are which layers: a table by their operators."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from lipcert.importing import operations as ops
from lipcert.importing.drawing import Drawing, Value
from lipcert.importing.onnx_call import Call
from lipcert.importing.pairs import (
    Extreme,
    channels,
    every_second,
    extreme,
    joined,
    pieces,
    reduced,
    sorted_pairs,
    stretched,
)
from lipcert.nn import Abs, ChannelPad


def _convolution(call: Call) -> Value:
    weight, (left, right, top, bottom) = call.tensor(1), call.padding() if call.tensor(1).dim() == 4 else (0, 0, 0, 0)
    value = call.value
    if (left, top) != (right, bottom):
        value = call.drawing.apply(f"{call.node}_pad", nn.ZeroPad2d((left, right, top, bottom)), value)
        left = top = 0
    strides, dilations = (call.attributes.get(name, (1, 1)) for name in ("strides", "dilations"))
    groups = call.attributes.get("group", 1)
    sizes = strides, (top, left), dilations, groups
    return ops.convolution(call.drawing, call.node, value, weight, call.constant(2), *sizes)


def _gemm(call: Call) -> Value:
    if call.attributes.get("transA", 0) or len(call.value.shape) != 1:
        raise call.refusal("only batches of vectors are supported, not transposed.")
    matrix, bias = call.tensor(1) * call.attributes.get("alpha", 1.0), call.constant(2)
    weight = matrix if call.attributes.get("transB", 0) else matrix.T
    if bias is not None:
        if bias.numel() not in (1, len(weight)):
            raise call.refusal(f"it adds a constant of shape {tuple(bias.shape)}, which is no bias.")
        bias = (bias * call.attributes.get("beta", 1.0)).flatten().expand(len(weight))
    return ops.linear(call.drawing, call.node, call.value, weight, bias)


def _product(call: Call) -> Value:
    if call.tensor(1).dim() != 2:
        raise call.refusal(f"it multiplies by a constant of shape {tuple(call.tensor(1).shape)}, which is no matrix.")
    return ops.linear(call.drawing, call.node, call.value, call.tensor(1).T, None)


def _batch_norm(call: Call) -> Value:
    if call.attributes.get("training_mode", 0):
        raise call.refusal("it normalises by the batch; export the network in eval mode.")
    weight, bias, mean, variance = (call.tensor(number) for number in (1, 2, 3, 4))
    epsilon = call.attributes.get("epsilon", 1e-5)
    return ops.batch_norm(call.drawing, call.node, call.value, weight, bias, mean, variance, epsilon)


def _clip(call: Call) -> Value:
    ends = [call.constant(1), call.constant(2)]
    low, high = (None if end is None else float(end) for end in ends)
    low, high = call.attributes.get("min", low), call.attributes.get("max", high)
    return ops.clamped(call.drawing, call.node, call.value, low, high)


def _extreme(call: Call) -> Any:
    values = [each for each in call.inputs if isinstance(each, Value)]
    constants = [each for each in call.inputs if isinstance(each, Tensor)]
    if len(values) == len(call.inputs) == 2:
        return extreme(call.drawing, call.node, call.inputs[0], call.inputs[1], call.kind == "Max")
    if len(values) != 1 or len(constants) != 1 or constants[0].numel() != 1:
        raise call.refusal("only a value and a number, or both halves of a value, are compared.")
    number = float(constants[0])
    ends = (number, None) if call.kind == "Max" else (None, number)
    return ops.clamped(call.drawing, call.node, values[0], *ends)


def _split(call: Call) -> tuple[Value, ...]:
    value, outputs = call.value, call.attributes.get("num_outputs", 2)
    size = -(-value.shape[0] // outputs)
    sizes = call.numbers(1, "split") or [min(size, value.shape[0] - size * each) for each in range(outputs)]
    return pieces(call.drawing, call.node, value, call.attributes.get("axis", 0), sizes)


def _slice(call: Call) -> Value:
    starts, ends, axes = (call.numbers(number, name) for number, name in ((1, "starts"), (2, "ends"), (3, "axes")))
    steps, value = call.numbers(4, "steps") or [1], call.value
    if not (starts and ends and axes and len(axes) == 1) or axes[0] % (len(value.shape) + 1) != 1:
        raise call.refusal("only channels can be cut out.")
    first, last, step = slice(starts[0], ends[0], steps[0]).indices(value.shape[0])
    if step == 2 and last == value.shape[0]:
        return every_second(call.drawing, call.node, value, first)
    if step != 1:
        raise call.refusal("only channels next to one another, or every second one, can be cut out.")
    return channels(call.drawing, call.node, value, first, last)


def _average(call: Call) -> Value:
    kernel, stride, padding = call.window()
    include, ceil = (bool(call.attributes.get(name, 0)) for name in ("count_include_pad", "ceil_mode"))
    if any(each != 1 for each in call.attributes.get("dilations", ())):
        raise call.refusal("it leaves pixels out (dilations).")
    return call.layer(nn.AvgPool2d(kernel, stride, padding, ceil, include))


def _maximum(call: Call) -> Value:
    kernel, stride, padding = call.window()
    dilation, ceil = tuple(call.attributes.get("dilations", (1, 1))), bool(call.attributes.get("ceil_mode", 0))
    return call.layer(nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil))


def _reduced(call: Call) -> Extreme:
    axes, keep = call.numbers(1, "axes") or [], bool(call.attributes.get("keepdims", 1))
    if len(axes) != 1:
        raise call.refusal("only along one dimension, of two entries, maxima and minima are supported.")
    return reduced(call.drawing, call.node, call.value, axes[0], keep, call.kind == "ReduceMax")


def _top(call: Call) -> tuple[Value, None]:
    if call.tensor(1).tolist() != [2] or not call.attributes.get("sorted", 1):
        raise call.refusal("only dimensions of two can be sorted.")
    axis, descending = call.attributes.get("axis", -1), bool(call.attributes.get("largest", 1))
    return sorted_pairs(call.drawing, call.node, call.value, axis, descending), None


def _mean(call: Call) -> Value:
    axes, keep = call.numbers(1, "axes") or [], bool(call.attributes.get("keepdims", 1))
    return ops.averaged(call.drawing, call.node, call.value, axes, keep)


def _reshape(call: Call) -> Value:
    before = (call.batch, *call.value.shape)
    wanted = [int(each) for each in call.tensor(1)]
    if 0 in wanted and call.attributes.get("allowzero", 0):
        raise call.refusal("it makes values without entries.")
    sizes = [before[number] if each == 0 else each for number, each in enumerate(wanted)]
    known = math.prod(each for each in sizes if each != -1)
    sizes = [math.prod(before) // known if each == -1 else each for each in sizes]
    return _shaped(call, sizes)


def _flatten(call: Call) -> Value:
    if call.attributes.get("axis", 1) % (1 + len(call.value.shape)) != 1:
        raise call.refusal("only all dimensions behind the batch can be flattened.")
    return _shaped(call, [call.batch, math.prod(call.value.shape)])


def _squeeze(call: Call) -> Value:
    shape = (call.batch, *call.value.shape)
    axes = call.numbers(1, "axes")
    dropped = {number for number, size in enumerate(shape) if size == 1 and number} if axes is None else {
        each % len(shape) for each in axes}  # fmt: skip
    return _shaped(call, [size for number, size in enumerate(shape) if number not in dropped])


def _unsqueeze(call: Call) -> Value | Extreme:
    axes, first = call.numbers(1, "axes") or [], call.inputs[0]
    if isinstance(first, Extreme) and len(axes) == 1:
        return stretched(call.node, first, axes[0])
    sizes = [call.batch, *call.value.shape]
    for axis in sorted(each % (len(sizes) + len(axes)) for each in axes):
        sizes.insert(axis, 1)
    return _shaped(call, sizes)


def _shaped(call: Call, sizes: Sequence[int]) -> Value:
    if not sizes or sizes[0] != call.batch:
        raise call.refusal(f"it makes {tuple(sizes)} of {(call.batch, *call.value.shape)}, which mixes images.")
    return ops.reshaped(call.drawing, call.node, call.value, tuple(sizes[1:]))


def _transpose(call: Call) -> Value:
    order = call.attributes.get("perm", list(reversed(range(1 + len(call.value.shape)))))
    return ops.permuted(call.drawing, call.node, call.value, order)


PADDINGS = {b"constant": "constant", b"reflect": "reflect", b"edge": "replicate", b"wrap": "circular"}
"""What torch calls the modes."""


def _pad(call: Call) -> Value:
    pads, fill, shape = call.numbers(1, "pads"), call.constant(2), call.value.shape
    mode, number = call.attributes.get("mode", b"constant"), call.attributes.get("value", 0.0)
    number = number if fill is None else float(fill)
    if pads is None or len(shape) != 3 or len(pads) != 8 or call.constant(3) is not None or number != 0:
        raise call.refusal("only pictures can be padded, with zeros or with their own pixels.")
    before, after = pads[:4], pads[4:]
    if before[0] or after[0]:
        raise call.refusal("it pads the batch.")
    if not any(each for side in (before, after) for each in side[2:]) and mode == b"constant":
        return call.layer(ChannelPad(before[1], after[1]))
    if before[1] or after[1]:
        raise call.refusal("it pads channels and pixels at once.")
    sizes = before[3], after[3], before[2], after[2]
    return ops.padded(call.drawing, call.node, call.value, sizes, PADDINGS[mode])


def _cast(call: Call) -> Value:
    if {1: torch.float32, 11: torch.float64}.get(call.attributes["to"]) != call.drawing.dtype:
        raise call.refusal(f"it leaves {call.drawing.dtype}, the precision of the network.")
    return call.value


def _dropout(call: Call) -> Value:
    mode = call.constant(2)
    if mode is not None and bool(mode):
        raise call.refusal("dropout is random in training mode; export the network in eval mode.")
    return call.value


def _sum(call: Call) -> Value:
    drawing, node = call.drawing, call.node
    total = reduce(lambda one, other: ops.added(drawing, node, one, other), map(call.operand, range(len(call.inputs))))
    assert isinstance(total, Value)
    return total


def _binary(rule: Callable[[Drawing, str, ops.Operand, ops.Operand], Value]) -> Callable[[Call], Value]:
    return lambda call: rule(call.drawing, call.node, call.operand(0), call.operand(1))


RULES: dict[str, Callable[[Call], Any]] = {
    "Add": _binary(ops.added),
    "Sub": _binary(ops.subtracted),
    "Mul": _binary(ops.multiplied),
    "Div": _binary(ops.divided),
    "Neg": lambda call: ops.multiplied(call.drawing, call.node, call.value, call.drawing.like.new_tensor(-1.0)),
    "Sum": _sum,
    "Conv": _convolution,
    "Gemm": _gemm,
    "MatMul": _product,
    "BatchNormalization": _batch_norm,
    "Relu": lambda call: call.layer(nn.ReLU()),
    "LeakyRelu": lambda call: call.layer(nn.LeakyReLU(call.attributes.get("alpha", 0.01))),
    "PRelu": lambda call: ops.prelu(call.drawing, call.node, call.value, call.tensor(1)),
    "Abs": lambda call: call.layer(Abs()),
    "Tanh": lambda call: call.layer(nn.Tanh()),
    "Sigmoid": lambda call: call.layer(nn.Sigmoid()),
    "Softplus": lambda call: call.layer(nn.Softplus()),
    "Gelu": lambda call: call.layer(nn.GELU(call.attributes.get("approximate", b"none").decode())),
    "Clip": _clip,
    "Max": _extreme,
    "Min": _extreme,
    "Slice": _slice,
    "Split": _split,
    "Concat": lambda call: joined(call.drawing, call.node, call.inputs, call.attributes["axis"]),
    "AveragePool": _average,
    "GlobalAveragePool": lambda call: ops.averaged(call.drawing, call.node, call.value, (2, 3), True),
    "MaxPool": _maximum,
    "GlobalMaxPool": lambda call: ops.largest(call.drawing, call.node, call.value),
    "ReduceMean": _mean,
    "ReduceMax": _reduced,
    "ReduceMin": _reduced,
    "TopK": _top,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Pad": _pad,
    "Cast": _cast,
    "Dropout": _dropout,
    "Identity": lambda call: call.value,
}
"""By operator."""
