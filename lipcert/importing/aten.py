"""Which operations of torch are which layers: a table over the names that `torch.export` gives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from lipcert.importing import operations as ops
from lipcert.importing.aten_call import Call
from lipcert.importing.drawing import Value
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
from lipcert.nn import Abs

EXACT = {
    *("_to_copy", "_unsafe_view", "alias", "cat", "clone", "contiguous", "detach", "detach_", "expand", "flatten"),
    *(
        "lift_fresh_copy",
        "mT",
        "neg",
        "numpy_T",
        "permute",
        "reshape",
        "select",
        "slice",
        "squeeze",
        "stack",
        "t",
        "to",
        "transpose",
    ),
    *("unsqueeze", "view"),
}
"""Operations without rounding: what they make of weights is the same at each use."""


def _sum(call: Call, sign: str = "added") -> Value:
    if call["alpha"] != 1:
        raise call.refusal(f"alpha={call['alpha']} is not supported, only 1.")
    return getattr(ops, sign)(call.drawing, call.node, call.operand("self"), call.operand("other"))


def _quotient(call: Call) -> Value:
    if call.arguments.get("rounding_mode") is not None:
        raise call.refusal("it rounds a quotient.")
    return ops.divided(call.drawing, call.node, call.operand("self"), call.operand("other"))


def _minus(call: Call) -> Value:
    return ops.multiplied(call.drawing, call.node, call["self"], call.drawing.like.new_tensor(-1.0))


def _clamp(call: Call, low: str = "min", high: str = "max") -> Value:
    ends = [call.arguments.get(name) for name in (low, high)]
    if any(isinstance(end, Tensor | Value) for end in ends):
        raise call.refusal("only numbers may be ends.")
    lower, upper = (None if end is None else float(end) for end in ends)
    return ops.clamped(call.drawing, call.node, call["self"], lower, upper)


def _transpose(call: Call) -> Value:
    order = list(range(len(call.shape) + 1))
    first, second = call["dim0"], call["dim1"]
    order[first], order[second] = order[second], order[first]
    return ops.permuted(call.drawing, call.node, call["self"], order)


def _convolution(call: Call) -> Value:
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    value, weight, *rest = (call[name] for name in names)
    if not isinstance(value, Value) or not isinstance(weight, Tensor):
        raise call.refusal("only weights that do not depend on the image are supported.")
    return ops.convolution(call.drawing, call.node, value, weight, *rest)


def _linear(call: Call, value: str = "input", weight: str = "weight", transposed: bool = True) -> Value:
    inputs, matrix, bias = call[value], call[weight], call.arguments.get("bias")
    if not isinstance(inputs, Value) or not isinstance(matrix, Tensor) or matrix.dim() != 2:
        raise call.refusal("only products with a constant matrix from the right are supported.")
    return ops.linear(call.drawing, call.node, inputs, matrix if transposed else matrix.T, bias)


def _addmm(call: Call) -> Value:
    if not (isinstance(call["self"], Tensor) and call["self"].dim() == 1 and call["alpha"] == call["beta"] == 1):
        raise call.refusal("only a bias may be added to a product.")
    inputs, matrix = call["mat1"], call["mat2"]
    if not isinstance(inputs, Value) or not isinstance(matrix, Tensor):
        raise call.refusal("only products with a constant matrix from the right are supported.")
    return ops.linear(call.drawing, call.node, inputs, matrix.T, call["self"])


def _batch_norm(call: Call) -> Value:
    if call.arguments.get("training"):
        raise call.refusal("it normalises by the batch; call model.eval() first.")
    mean, variance = call["running_mean"], call["running_var"]
    if mean is None or variance is None:
        raise call.refusal("it has no running statistics.")
    tensors = call["weight"], call["bias"], mean, variance
    return ops.batch_norm(call.drawing, call.node, call["input"], *tensors, call["eps"])


def _mean(call: Call) -> Value:
    return ops.averaged(call.drawing, call.node, call["self"], call.arguments.get("dim") or (), call["keepdim"])


def _adaptive(call: Call) -> Value:
    if all(size == 1 for size in _sizes(call["output_size"])):
        return ops.averaged(call.drawing, call.node, call["self"], (2, 3), True)
    return call.layer(nn.AdaptiveAvgPool2d(_sizes(call["output_size"])))


def _average(call: Call) -> Value:
    kernel, stride = _sizes(call["kernel_size"]), _sizes(call["stride"] or call["kernel_size"])
    rest = call["ceil_mode"], call["count_include_pad"], call["divisor_override"]
    return call.layer(nn.AvgPool2d(kernel, stride, _sizes(call["padding"]), *rest))


def _maximum(call: Call) -> Value:
    kernel, stride = _sizes(call["kernel_size"]), _sizes(call["stride"] or call["kernel_size"])
    padding, dilation = _sizes(call["padding"]), _sizes(call["dilation"])
    return call.layer(nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=call["ceil_mode"]))


def _pad(call: Call) -> Value:
    if call.arguments.get("value"):
        raise call.refusal(f"it pads with {call['value']}, only zeros and a picture's own pixels are supported.")
    return ops.padded(call.drawing, call.node, call["self"], call["pad"], call.arguments.get("mode", "constant"))


def _largest(call: Call) -> tuple[Value, None]:
    if any(size != 1 for size in _sizes(call["output_size"])):
        raise call.refusal("only the maximum of whole pictures is supported.")
    return ops.largest(call.drawing, call.node, call["self"]), None


def _same(call: Call) -> Value:
    if call.arguments.get("dtype") not in (None, call.drawing.dtype):
        raise call.refusal(f"it leaves {call.drawing.dtype}, the precision of the network.")
    return call[next(iter(call.arguments))]


def _dropout(call: Call) -> Value:
    if call["train"]:
        raise call.refusal("dropout is random in train mode; call model.eval() first.")
    return call["input"]


def _reshape(call: Call) -> Value:
    return ops.reshaped(call.drawing, call.node, call["self"], call.shape)


def _extreme(call: Call, larger: bool) -> Any:
    if isinstance(call.arguments.get("dim"), int):
        return reduced(call.drawing, call.node, call["self"], call["dim"], call["keepdim"], larger), None
    if "other" not in call.arguments:
        raise call.refusal("only a value and a number, or both halves of a value, are compared.")
    first, second = call["self"], call["other"]
    number = next((each for each in (first, second) if isinstance(each, Tensor)), None)
    value = next((each for each in (first, second) if isinstance(each, Value)), None)
    if number is None or value is None or number.numel() != 1:
        return extreme(call.drawing, call.node, first, second, larger)
    ends = (float(number), None) if larger else (None, float(number))
    return ops.clamped(call.drawing, call.node, value, *ends)


def _along(call: Call, larger: bool) -> Extreme:
    if len(call["dim"]) != 1:
        raise call.refusal("only along one dimension, of two entries, maxima and minima are supported.")
    return reduced(call.drawing, call.node, call["self"], call["dim"][0], call["keepdim"], larger)


def _unsqueezed(call: Call) -> Value | Extreme:
    found = call["self"]
    return stretched(call.node, found, call["dim"]) if isinstance(found, Extreme) else _reshape(call)


def _stacked(call: Call) -> Value:
    if not all(isinstance(each, Extreme) for each in call["tensors"]):
        raise call.refusal("only the larger and the smaller of pairs can be stacked.")
    parts = [stretched(call.node, each, call["dim"]) for each in call["tensors"]]
    return joined(call.drawing, call.node, parts, call["dim"] % (len(call.shape) + 1))


def _pieces(call: Call) -> tuple[Value, ...]:
    count, given = call["self"].shape[0], call.arguments
    size = given.get("split_size", given.get("split_sizes"))
    if "chunks" in given:
        size = -(-count // given["chunks"])
    sizes = [min(size, count - first) for first in range(0, count, size)] if isinstance(size, int) else size
    return pieces(call.drawing, call.node, call["self"], call["dim"], sizes)


def _slice(call: Call) -> Value:
    value, dimension, count = call["self"], call["dim"], call["self"].shape[0]
    if dimension % (len(value.shape) + 1) > 1 or (call["step"] != 1 and dimension == 0):
        raise call.refusal("only channels can be cut out.")
    if dimension == 0:
        return _same(call)  # all images, as the shape that it yields has been seen to say
    first, last, step = slice(call["start"], call["end"], call["step"]).indices(count)
    if step == 2 and last == count:
        return every_second(call.drawing, call.node, value, first)
    if step != 1:
        raise call.refusal("only channels next to one another, or every second one, can be cut out.")
    return channels(call.drawing, call.node, value, first, last)


def _sorted(call: Call) -> tuple[Value, None]:
    return sorted_pairs(call.drawing, call.node, call["self"], call["dim"], call["descending"]), None


def _prelu(call: Call) -> Value:
    weight = call["weight"]
    if not isinstance(weight, Tensor):
        raise call.refusal("its slopes depend on the image.")
    return ops.prelu(call.drawing, call.node, call["self"], weight)


def _sizes(sizes: int | Sequence[int]) -> tuple[int, int]:
    return (sizes, sizes) if isinstance(sizes, int) else (sizes[0], sizes[-1])


DROPOUTS = ("dropout", "feature_dropout")
"""Operations that draw random numbers in train mode alone, in which they are refused."""

RULES: dict[str, Callable[[Call], Any]] = {
    "add": _sum,
    "sub": lambda call: _sum(call, "subtracted"),
    "rsub": lambda call: ops.subtracted(call.drawing, call.node, call.operand("other"), call["self"]),
    "mul": lambda call: ops.multiplied(call.drawing, call.node, call.operand("self"), call.operand("other")),
    "div": _quotient,
    "neg": _minus,
    "relu": lambda call: call.layer(nn.ReLU()),
    "relu6": lambda call: call.layer(nn.ReLU6()),
    "leaky_relu": lambda call: call.layer(nn.LeakyReLU(call["negative_slope"])),
    "abs": lambda call: call.layer(Abs()),
    "prelu": _prelu,
    "tanh": lambda call: call.layer(nn.Tanh()),
    "sigmoid": lambda call: call.layer(nn.Sigmoid()),
    "gelu": lambda call: call.layer(nn.GELU(call["approximate"])),
    "silu": lambda call: call.layer(nn.SiLU()),
    "softplus": lambda call: call.layer(nn.Softplus(call["beta"], call["threshold"])),
    "hardtanh": lambda call: _clamp(call, "min_val", "max_val"),
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": _clamp,
    "conv2d": _convolution,
    "linear": _linear,
    "matmul": lambda call: _linear(call, "self", "other", False),
    "mm": lambda call: _linear(call, "self", "mat2", False),
    "addmm": _addmm,
    "batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": lambda call: (_batch_norm(call),),
    "mean": _mean,
    "adaptive_avg_pool2d": _adaptive,
    "_adaptive_avg_pool2d": _adaptive,
    "avg_pool2d": _average,
    "max_pool2d": _maximum,
    "max_pool2d_with_indices": lambda call: (_maximum(call),),
    "adaptive_max_pool2d": _largest,
    "constant_pad_nd": _pad,
    "pad": _pad,
    **dict.fromkeys(["max", "maximum"], lambda call: _extreme(call, True)),
    **dict.fromkeys(["min", "minimum"], lambda call: _extreme(call, False)),
    **dict.fromkeys(["chunk", "split", "split_with_sizes"], _pieces),
    "amax": lambda call: _along(call, True),
    "amin": lambda call: _along(call, False),
    "stack": _stacked,
    "unsqueeze": _unsqueezed,
    "cat": lambda call: joined(call.drawing, call.node, call["tensors"], call["dim"]),
    "slice": _slice,
    "sort": _sorted,
    "pixel_unshuffle": lambda call: call.layer(nn.PixelUnshuffle(call["downscale_factor"])),
    "permute": lambda call: ops.permuted(call.drawing, call.node, call["self"], call["dims"]),
    "transpose": _transpose,
    **dict.fromkeys(["alias", "clone", "contiguous", "detach", "lift_fresh_copy", "_to_copy", "to"], _same),
    **dict.fromkeys(DROPOUTS, _dropout),
    **dict.fromkeys(
        ["view", "_unsafe_view", "reshape", "flatten", "unflatten", "squeeze", "view_as", "reshape_as"],
        _reshape,
    ),
}
"""By the operation's name, without its overload."""
