"""What operations of imported networks are as layers, whichever format they come from."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lipcert.importing.drawing import Drawing, Shape, Value, unsupported
from lipcert.nn import ElementwiseAffine, Normalize, Permute

Operand = Value | Tensor
"""What is computed from the image, or a constant."""


def added(drawing: Drawing, node: str, first: Operand, second: Operand) -> Value:
    """Append first + second, at least one of them a value."""
    if isinstance(first, Value) and isinstance(second, Value):
        return drawing.add(node, first, second)
    value, constant = _sorted(first, second)
    return drawing.apply(node, ElementwiseAffine(shift=_fitting(drawing, node, value, constant)), value)


def subtracted(drawing: Drawing, node: str, first: Operand, second: Operand) -> Value:
    """Append first - second: signs change exactly."""
    if isinstance(second, Value):
        return added(drawing, node, first, multiplied(drawing, f"{node}_minus", second, drawing.like.new_tensor(-1.0)))
    return added(drawing, node, first, -second)


def multiplied(drawing: Drawing, node: str, first: Operand, second: Operand) -> Value:
    """Append first * second, one of them a constant.

    Raises:
        UnsupportedLayerError: for two values, naming the node.
    """
    if isinstance(first, Value) and isinstance(second, Value):
        raise unsupported(node, "product", "it multiplies two values that depend on the image.")
    value, constant = _sorted(first, second)
    return drawing.apply(node, ElementwiseAffine(scale=_fitting(drawing, node, value, constant)), value)


def divided(drawing: Drawing, node: str, first: Operand, second: Operand) -> Value:
    """Append first / second for a constant second: a `Normalize` for positive ones a channel, else by reciprocals.

    Raises:
        UnsupportedLayerError: for a divisor that depends on the image, or is 0, naming the node.
    """
    if isinstance(second, Value):
        raise unsupported(node, "quotient", "it divides by what depends on the image.")
    assert isinstance(first, Value)
    constant = _fitting(drawing, node, first, second)
    if bool((constant == 0).any()):
        raise unsupported(node, "quotient", "it divides by 0.")
    channels = first.shape[0]
    per_channel = constant.expand(1, *first.shape).flatten(2) if len(first.shape) > 1 else constant.expand(1, channels)
    stds = per_channel.reshape(1, channels, -1)[0, :, 0]
    if bool((stds > 0).all()) and bool((constant.expand(1, *first.shape).reshape(channels, -1) == stds[:, None]).all()):
        layer = Normalize([0.0] * channels, [1.0] * channels)
        layer.mean, layer.std = stds.new_zeros(channels), stds.clone(memory_format=torch.contiguous_format)
        return drawing.apply(node, layer, first)
    return multiplied(drawing, node, first, 1 / constant)


def reshaped(drawing: Drawing, node: str, value: Value, shape: Shape) -> Value:
    """Append a change of shape, row by row."""
    if value.shape == shape:
        return value
    if math.prod(value.shape) != math.prod(shape):
        raise unsupported(node, "reshape", f"it makes {shape} of {value.shape}, which mixes images.")
    flat = value if len(value.shape) == 1 else drawing.apply(node, nn.Flatten(), value)
    return flat if len(shape) == 1 else drawing.apply(node, nn.Unflatten(1, shape), flat)


def permuted(drawing: Drawing, node: str, value: Value, order: Sequence[int]) -> Value:
    """Append another order of dimensions, the batch's among them.

    Raises:
        UnsupportedLayerError: for one that moves the batch, naming the node.
    """
    positive = [each % (len(value.shape) + 1) for each in order]
    if positive[0] != 0:
        raise unsupported(node, "permutation", f"the order {positive} moves the batch.")
    return value if positive == sorted(positive) else drawing.apply(node, Permute(positive), value)


def averaged(drawing: Drawing, node: str, value: Value, dimensions: Sequence[int], keep: bool) -> Value:
    """Append the mean over height and width of pictures, or over all places of flat ones, (B, C, places).

    Raises:
        UnsupportedLayerError: for other dimensions, naming the node.
    """
    if len(value.shape) == 2 and [each % 3 for each in dimensions] == [2]:
        mean = averaged(drawing, node, reshaped(drawing, node, value, (*value.shape, 1)), (2, 3), False)
        return reshaped(drawing, node, mean, (*mean.shape, 1)) if keep else mean
    if len(value.shape) != 3 or sorted(each % 4 for each in dimensions) != [2, 3]:
        raise unsupported(node, "mean", f"it averages dimensions {list(dimensions)} of (B, *{value.shape}); only "
                          "height and width of pictures can be.")  # fmt: skip
    height, width = value.shape[1:]
    pooled = drawing.apply(node, nn.AvgPool2d((height, width)), value)
    return pooled if keep else reshaped(drawing, node, pooled, value.shape[:1])


def padded(drawing: Drawing, node: str, value: Value, sizes: Sequence[int], mode: str) -> Value:
    """Append rows and columns, (left, right, top, bottom), by a mode of torch: constant stands for zeros.

    Raises:
        UnsupportedLayerError: for what are no pictures, naming the node.
    """
    kinds = {"reflect": nn.ReflectionPad2d, "replicate": nn.ReplicationPad2d, "circular": nn.CircularPad2d}
    if len(value.shape) != 3 or len(sizes) != 4:
        raise unsupported(node, "padding", f"only rows and columns of pictures can be padded, not {value.shape}.")
    left, right, top, bottom = sizes
    return drawing.apply(node, kinds.get(mode, nn.ZeroPad2d)((left, right, top, bottom)), value)


def largest(drawing: Drawing, node: str, value: Value) -> Value:
    """Append the maximum over height and width of pictures, which it keeps as dimensions of 1."""
    if len(value.shape) != 3:
        raise unsupported(node, "maximum", f"it is taken of (B, *{value.shape}), which are no pictures.")
    height, width = value.shape[1:]
    return drawing.apply(node, nn.MaxPool2d((height, width)), value)


def clamped(drawing: Drawing, node: str, value: Value, low: float | None, high: float | None) -> Value:
    """Append min(max(value, low), high)."""
    if (low, high) == (0.0, None):
        return drawing.apply(node, nn.ReLU(), value)
    if (low, high) == (0.0, 6.0):
        return drawing.apply(node, nn.ReLU6(), value)
    ends = (-math.inf if low is None else low, math.inf if high is None else high)
    if not ends[0] < ends[1]:
        raise unsupported(node, "clamp", f"it clips to {low} from below and {high} from above.")
    return drawing.apply(node, nn.Hardtanh(*ends), value)


def prelu(drawing: Drawing, node: str, value: Value, weight: Tensor) -> Value:
    """Append a leaky ReLU with constant slopes, one or one a channel."""
    return drawing.apply(node, _holding(nn.PReLU(weight.numel(), device="meta"), weight=weight.flatten()), value)


def linear(drawing: Drawing, node: str, value: Value, weight: Tensor, bias: Tensor | None) -> Value:
    """Append a fully connected layer; `weight`: (out, in)."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    return drawing.apply(node, _holding(layer, weight=weight, bias=bias), value)


def convolution(
    drawing: Drawing,
    node: str,
    value: Value,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int] | str,
    dilation: Sequence[int],
    groups: int,
) -> Value:
    """Append a 2-d convolution."""
    if weight.dim() != 4:
        raise unsupported(node, "convolution", f"it has {weight.dim() - 2} dimensions of space; only 2 are supported.")
    outputs, inputs, height, width = weight.shape
    sizes = [(int(each[0]), int(each[-1])) for each in (stride, dilation)]
    padded = padding if isinstance(padding, str) else (int(padding[0]), int(padding[-1]))
    layer = nn.Conv2d(
        inputs * groups, outputs, (height, width), sizes[0], padded, sizes[1], groups, bias is not None, device="meta"
    )
    return drawing.apply(node, _holding(layer, weight=weight, bias=bias), value)


def batch_norm(
    drawing: Drawing,
    node: str,
    value: Value,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    epsilon: float,
) -> Value:
    """Append batch normalisation by running statistics."""
    kind = nn.BatchNorm2d if len(value.shape) == 3 else nn.BatchNorm1d
    layer = kind(len(mean), epsilon, affine=weight is not None or bias is not None, device="meta")
    if layer.affine:
        weight = torch.ones_like(mean) if weight is None else weight
        bias = torch.zeros_like(mean) if bias is None else bias
    layer.num_batches_tracked = torch.zeros((), dtype=torch.long)
    held = _holding(layer, weight=weight, bias=bias, running_mean=mean, running_var=variance)
    return drawing.apply(node, held.eval(), value)


def _holding(layer: nn.Module, **tensors: Tensor | None) -> nn.Module:
    """Return the layer with these tensors, parameters as they are; others that stand for parameters are not trained."""
    for name, tensor in tensors.items():
        if name in layer._parameters and tensor is not None and not isinstance(tensor, nn.Parameter):
            tensor = nn.Parameter(tensor.clone(), requires_grad=False)
        setattr(layer, name, tensor)
    return layer


def _sorted(first: Operand, second: Operand) -> tuple[Value, Tensor]:
    """Return the value and the constant, in this order."""
    if isinstance(first, Value):
        assert isinstance(second, Tensor)
        return first, second
    assert isinstance(second, Value)
    return second, first


def _fitting(drawing: Drawing, node: str, value: Value, constant: Tensor) -> Tensor:
    """Return a constant in the network's precision, without the dimension of a batch of one.

    Raises:
        UnsupportedLayerError: for one that differs from image to image, or enlarges the value, naming the node.
    """
    found = constant.to(drawing.like)
    wide = found.dim() > len(value.shape) + 1 or (found.dim() == len(value.shape) + 1 and found.shape[0] != 1)
    if wide or torch.broadcast_shapes((1, *value.shape), found.shape) != (1, *value.shape):
        raise unsupported(node, "constant", f"one of shape {tuple(found.shape)} meets values (B, *{value.shape}).")
    return found
