"""From a model to a graph: every layer is accepted or refused here, by name.

`operator` is the table of affine layers (pooling and scaling ones add their rows beside their operators), that of the
others is in `lipcert.graph.activations`. A row, as `register_affine` adds one, serves forward bounds, backward bounds
and training alike.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, singledispatch
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from lipcert.graph.activations import MAKERS, nonlinearity
from lipcert.graph.nodes import Activation, Add, Affine, Image, Node
from lipcert.graph.operators import Convolution, Dense, Operator, Shape, permutation, reshape
from lipcert.graph.padding import with_padding
from lipcert.nn import GroupSort2, LayerGraph, Permute, Residual, Sum, UnsupportedLayerError
from lipcert.nn.integrity import REGISTERED, is_layer, refuse_altered
from lipcert.nn.layer_graph import IMAGE

CONTAINERS = (nn.Sequential, GroupSort2, LayerGraph, Residual, Sum)
"""Layers that are made of layers, and what joins them."""

Structure = tuple[object, ...]
"""A layer's children, and which layers these are applied to."""

OF_ITS_INPUT = (nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.RMSNorm, nn.LocalResponseNorm)
"""Layers that normalise by statistics of each image."""

OPTIONAL: dict[tuple[str, str], Callable[[Any, Shape], Operator]] = {}
"""Affine layers of packages that are imported by whoever has such a layer: module and name of the class."""

BY_IMPORT = " A module with a `forward` of its own comes in by lipcert.from_torch(model, image_shape)."

_KEYS = count()


@singledispatch
def operator(layer: nn.Module, input_shape: Shape) -> Operator:
    """Return the operator of an affine layer on inputs of `input_shape` (without the batch).

    Raises:
        UnsupportedLayerError: for a layer that is not affine, or not supported in its mode.
    """
    raise UnsupportedLayerError(f"{type(layer).__name__} is not a supported affine layer.")


@operator.register
def _(layer: nn.Linear, input_shape: Shape) -> Operator:
    if input_shape[-1] != layer.in_features:
        raise UnsupportedLayerError(
            f"this Linear takes {layer.in_features} inputs, but images of this shape give it {input_shape[-1]}."
        )
    return Dense(input_shape, (*input_shape[:-1], layer.out_features), layer.weight, layer.bias)


@operator.register
def _(layer: nn.Conv2d, input_shape: Shape) -> Operator:
    if len(input_shape) != 3 or input_shape[0] != layer.in_channels:
        given = ", ".join(map(str, ("B", *input_shape)))
        raise UnsupportedLayerError(f"this Conv2d takes inputs (B, {layer.in_channels}, height, width), got ({given}).")
    kernel, stride, dilation = pair(layer.kernel_size), pair(layer.stride), pair(layer.dilation)
    if layer.padding == "same":
        totals = [dilation[i] * (kernel[i] - 1) for i in (0, 1)]
        top, left = totals[0] // 2, totals[1] // 2
        padding = (left, totals[1] - left, top, totals[0] - top)
    else:
        vertical, horizontal = (0, 0) if isinstance(layer.padding, str) else pair(layer.padding)
        padding = (horizontal, horizontal, vertical, vertical)
    sizes = [
        (input_shape[1 + i] + padded - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i, padded in enumerate((padding[2] + padding[3], padding[0] + padding[1]))
    ]
    shape = (layer.out_channels, *sizes)
    made = Convolution(input_shape, shape, layer.weight, layer.bias, stride, padding, dilation, layer.groups)
    return made if layer.padding_mode == "zeros" else with_padding(made, layer.padding_mode)


@operator.register
def _(layer: nn.Flatten, input_shape: Shape) -> Operator:
    if layer.start_dim != 1 or layer.end_dim not in (-1, len(input_shape)):
        raise UnsupportedLayerError("Flatten is supported from dimension 1 to the last, nothing else.")
    return reshape(input_shape, (math.prod(input_shape),))


@operator.register
def _(layer: nn.Unflatten, input_shape: Shape) -> Operator:
    if layer.dim != 1 or len(input_shape) != 1:
        raise UnsupportedLayerError("Unflatten is supported for vectors, at dimension 1, nothing else.")
    return reshape(input_shape, tuple(torch.empty(input_shape).unflatten(0, layer.unflattened_size).shape))


@operator.register
def _(layer: Permute, input_shape: Shape) -> Operator:
    return permutation(input_shape, layer.order)


@operator.register
def _(layer: nn.Identity, input_shape: Shape) -> Operator:
    return reshape(input_shape, input_shape)


@operator.register(nn.Dropout)
@operator.register(nn.Dropout1d)
@operator.register(nn.Dropout2d)
def _(layer: nn.Module, input_shape: Shape) -> Operator:
    if layer.training:
        raise UnsupportedLayerError("dropout is random in train mode; call model.eval() first.")
    return reshape(input_shape, input_shape)


def is_affine(kind: type[nn.Module]) -> bool:
    """Return whether layers of this class have an operator."""
    return operator.dispatch(kind) is not operator.dispatch(object)


def register_affine(kind: type[nn.Module], make: Callable[[Any, Shape], Operator]) -> None:
    """Add an affine layer of your own to the layers that have bounds: forward, backward and in training.

    Args:
        kind: the layer's class.
        make: takes the layer and its input's shape without the batch, returns its operator. Everything that is
            certified rests on what the operator says; docs/extending/layer.md shows one, and how to test it.
    """
    operator.register(kind, make)
    REGISTERED.add(kind)


def pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    """Return a size as (height, width)."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


@dataclass(frozen=True, eq=False)
class Graph:
    """A model as nodes; the last one is the output.

    Weights are those of the model at each use; what must not change after compilation are its layers and hooks, which
    `check_unchanged` makes sure of.

    Attributes:
        nodes: in the order of execution, each behind its sources.
        modules: every layer of the model that was followed, containers too, by name, with its structure of then.
        key: tells graphs apart whose weights nobody else holds, so that norms may be kept; None for others.
        kept: operators at compilation, which are those of a graph with a key.
    """

    nodes: tuple[Node, ...]
    modules: tuple[tuple[str, nn.Module, Structure], ...]
    key: int | None = None
    kept: Mapping[int, Operator] = field(default_factory=dict)

    @property
    def image_shape(self) -> Shape:
        """Shape of an image, without the batch."""
        return self.nodes[0].shape

    @cached_property
    def activations(self) -> tuple[Activation, ...]:
        """The activations, in order."""
        return tuple(node for node in self.nodes if isinstance(node, Activation))

    def operators(self) -> Mapping[int, Operator]:
        """Return the operator of every affine node, by index, with present weights.

        Raises:
            UnsupportedLayerError: for a layer that is not affine in its present mode.
        """
        if self.key is not None:
            return self.kept
        return {node.index: _present_operator(node) for node in self.nodes if isinstance(node, Affine)}

    @cached_property
    def last_use(self) -> dict[int, int]:
        """The last node that is applied to each node, by index."""
        return {source: node.index for node in self.nodes for source in node.sources}

    def frozen(self) -> Graph:
        """Return the graph with a key of its own: to be called where nobody else holds the weights."""
        return replace(self, key=next(_KEYS))


def _present_operator(node: Affine) -> Operator:
    """Return the operator of a node with its layer's present weights.

    Raises:
        UnsupportedLayerError: for a layer that is not affine in its present mode, or has another shape by now.
    """
    try:
        made = operator(node.layer, node.input_shape)
    except UnsupportedLayerError as error:
        raise UnsupportedLayerError(f"Layer {node.name!r}: {error}") from None
    if made.output_shape != node.shape:
        raise UnsupportedLayerError(
            f"Layer {node.name!r} yields {made.output_shape}, at compilation it was {node.shape}; compile it anew."
        )
    return made


def compile_graph(model: nn.Module, image_shape: Sequence[int]) -> Graph:
    """Return the graph of a tree of supported layers.

    Args:
        model: `Sequential`, `Residual` and `LayerGraph` containers of layers in the tables of affine layers and of
            activations.
        image_shape: of one image, without the batch.

    Raises:
        UnsupportedLayerError: naming a layer that has no sound bound, or does not fit the shape that reaches it.
    """
    refuse_altered(model.named_modules(), supported_types())
    compiler = _Compiler(tuple(image_shape))
    with torch.no_grad():
        compiler.extend(model, 0, "")
    return Graph(tuple(compiler.nodes), tuple(compiler.modules), kept=compiler.operators)


def check_unchanged(graph: Graph) -> None:
    """Refuse a graph whose model's layers were replaced, patched or hooked since it was compiled.

    Raises:
        UnsupportedLayerError: naming the layer.
    """
    refuse_altered([(name, layer) for name, layer, _ in graph.modules], supported_types())
    for name, layer, structure in graph.modules:
        if _structure(layer) != structure:
            raise UnsupportedLayerError(
                f"Layer {name or 'model'!r} has other layers than when it was compiled; compile it anew."
            )
        if isinstance(layer, Residual | LayerGraph):
            _refuse_inplace(layer, name)
    for node in graph.activations:
        if any(new is not old for new, old in zip(_held(node.layer), node.tensors, strict=True)):
            raise UnsupportedLayerError(
                f"Layer {node.name!r} has other thresholds than when it was compiled; compile the model anew."
            )


def supported_types() -> frozenset[type[nn.Module]]:
    """Return the classes of layers that have bounds."""
    for (module, name), make in OPTIONAL.items():
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and kind not in operator.registry:
            operator.register(kind, make)
    affine = (kind for kind in operator.registry if kind is not object)
    return frozenset((*CONTAINERS, *affine, *MAKERS))


def refuse_statistics(layer: nn.Module, name: str) -> None:
    """Refuse a layer that divides by a standard deviation of the very values it is given.

    Raises:
        UnsupportedLayerError: naming the layer.
    """
    if isinstance(layer, OF_ITS_INPUT):
        raise UnsupportedLayerError(
            f"Layer {name or 'model'!r} ({type(layer).__name__}) divides by a standard deviation of what it is given: "
            "where that is small it enlarges changes without limit, so no Lipschitz constant is of use; batch norm in "
            "eval mode divides by constants."
        )


def _structure(layer: nn.Module) -> Structure:
    return (*layer._modules.values(), *(layer.sources if isinstance(layer, LayerGraph) else ()))


def _refuse_inplace(layer: Residual | LayerGraph, name: str) -> None:
    """Refuse a residual block or a graph in which an activation works in place.

    Raises:
        UnsupportedLayerError: naming the block.
    """
    if any(getattr(module, "inplace", False) for module in layer.modules()):
        raise UnsupportedLayerError(
            f"Layer {name or 'model'!r}: an activation inside a {type(layer).__name__} works in place and may "
            "overwrite what another layer reads; build it with inplace=False."
        )


def _refuse_misfit(layer: nn.Module, input_shape: Shape, output_shape: Shape) -> None:
    """Refuse a layer that makes another shape of its input than its bounds do, as what broadcasts may.

    Raises:
        UnsupportedLayerError: saying both; other errors as of the layer.
    """
    tensors = (*layer.parameters(), *layer.buffers())
    like = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.zeros(()))
    found = tuple(layer(like.new_zeros(1, *input_shape)).shape)
    if found != (1, *output_shape):
        raise UnsupportedLayerError(
            f"a {type(layer).__name__} whose sizes are not those of its input makes {found} of {(1, *input_shape)}; "
            f"its bounds are of {(1, *output_shape)}."
        )


def _held(layer: nn.Module) -> tuple[Tensor | None, ...]:
    """Return the parameters and buffers that a layer itself holds."""
    return (*layer._parameters.values(), *layer._buffers.values())


class _Compiler:
    """Collects nodes: `extend` appends those of a layer applied to node `source` and returns the last one's index."""

    def __init__(self, image_shape: Shape) -> None:
        self.nodes: list[Node] = [Image(image_shape)]
        self.operators: dict[int, Operator] = {}
        self.activations = tuple(MAKERS)
        self.modules: list[tuple[str, nn.Module, Structure]] = []

    def extend(self, layer: nn.Module, source: int, name: str) -> int:
        self.modules.append((name, layer, _structure(layer)))
        if isinstance(layer, nn.Sequential):
            for child_name, child in layer._modules.items():  # named_children() would skip a layer used a second time
                if child is not None:
                    source = self.extend(child, source, f"{name}.{child_name}".lstrip("."))
            return source
        if isinstance(layer, Residual):
            return self._residual(layer, source, name)
        if isinstance(layer, LayerGraph):
            return self._layer_graph(layer, source, name)
        shape, index = self.nodes[source].shape, len(self.nodes)
        refuse_statistics(layer, name)
        activation = isinstance(layer, self.activations)
        if not activation and not is_affine(type(layer)):
            names = ", ".join(sorted({kind.__name__ for kind in supported_types()}))
            raise UnsupportedLayerError(
                f"Layer {name or 'model'!r} is a {type(layer).__name__}, which has no bound. Supported: {names}."
                + ("" if is_layer(type(layer)) else BY_IMPORT)
            )
        if activation and "parametrizations" in layer._modules:
            raise UnsupportedLayerError(f"Layer {name!r}: thresholds that a parametrization computes have no bound.")
        try:
            if activation:
                function = nonlinearity(layer, shape)
                behind = function.output_shape(shape)
                node: Node = Activation(index, (source,), name, layer, behind, function, _held(layer))
            else:
                made = self.operators[index] = operator(layer, shape)
                node = Affine(index, (source,), name, layer, shape, made.output_shape, not made.elementwise)
            _refuse_misfit(layer, shape, node.shape)
        except UnsupportedLayerError as error:
            raise UnsupportedLayerError(f"Layer {name!r}: {error}") from None
        except (RuntimeError, ValueError, TypeError, LookupError) as error:
            kind, inputs = type(layer).__name__, ", ".join(map(str, ("B", *shape)))
            raise UnsupportedLayerError(f"Layer {name!r} ({kind}) does not take inputs ({inputs}): {error}") from error
        self.nodes.append(node)
        return index

    def _residual(self, layer: Residual, source: int, name: str) -> int:
        _refuse_inplace(layer, name)
        branch = self.extend(layer.branch, source, f"{name}.branch".lstrip("."))
        shortcut = self.extend(layer.shortcut, source, f"{name}.shortcut".lstrip("."))
        return self._add(branch, shortcut, name, "branch and shortcut yield")

    def _layer_graph(self, layer: LayerGraph, source: int, name: str) -> int:
        _refuse_inplace(layer, name)
        indices = {IMAGE: source}
        for (child_name, child), sources in zip(layer._modules.items(), layer.sources, strict=True):
            assert child is not None
            full, before = f"{name}.{child_name}".lstrip("."), [indices[each] for each in sources]
            if isinstance(child, Sum):
                self.modules.append((full, child, _structure(child)))
                source = self._add(before[0], before[1], full, "its sources yield")
            else:
                source = self.extend(child, before[0], full)
            indices[child_name] = source
        return source

    def _add(self, first: int, second: int, name: str, what: str) -> int:
        shapes = self.nodes[first].shape, self.nodes[second].shape
        if shapes[0] != shapes[1]:
            raise UnsupportedLayerError(f"Layer {name!r}: {what} shapes {shapes[0]} and {shapes[1]}; they must agree.")
        self.nodes.append(Add(len(self.nodes), (first, second), name, shapes[0]))
        return len(self.nodes) - 1
