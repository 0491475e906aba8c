"""From a model to a graph: every layer is accepted or refused here, by name."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lipcert.graph.activations import MAKERS, nonlinearity
from lipcert.graph.errors import UnsupportedLayerError
from lipcert.graph.layers import operator
from lipcert.graph.nodes import Activation, Add, Affine, Graph, Image, Node
from lipcert.graph.operators import Operator, Shape
from lipcert.nn import Residual
from lipcert.nn.integrity import refuse_altered

CONTAINERS = (nn.Sequential, Residual)
"""Layers that are made of layers."""


def compile_graph(model: nn.Module, image_shape: Sequence[int]) -> Graph:
    """Return the graph of a tree of supported layers.

    Args:
        model: `Sequential` and `Residual` containers of layers in the tables of affine layers and of activations.
        image_shape: of one image, without the batch.

    Raises:
        UnsupportedLayerError: naming a layer that has no sound bound, or does not fit the shape that reaches it.
    """
    refuse_altered(model.named_modules(), supported_types())
    compiler = _Compiler(tuple(image_shape))
    with torch.no_grad():
        compiler.extend(model, 0, "")
    return Graph(tuple(compiler.nodes), tuple(compiler.modules), kept=compiler.operators)


def joined_name(name: str, child: str) -> str:
    """Return the name of a child in the model."""
    return f"{name}.{child}" if name else child


def check_unchanged(graph: Graph) -> None:
    """Refuse a graph whose model's layers were replaced, patched or hooked since it was compiled.

    Raises:
        UnsupportedLayerError: naming the layer.
    """
    refuse_altered([(name, layer) for name, layer, _ in graph.modules], supported_types())
    for name, layer, children in graph.modules:
        if tuple(layer._modules.values()) != children:
            raise UnsupportedLayerError(
                f"Layer {name or 'model'!r} has other layers than when it was compiled; compile it anew."
            )
        if isinstance(layer, Residual):
            _refuse_inplace(layer, name)
    for node in graph.nodes:
        if not isinstance(node, Activation):
            continue
        if any(new is not old for new, old in zip(_held(node.layer), node.tensors, strict=True)):
            raise UnsupportedLayerError(
                f"Layer {node.name!r} has other thresholds than when it was compiled; compile the model anew."
            )


def supported_types() -> frozenset[type[nn.Module]]:
    """Return the classes of layers that have bounds."""
    affine = (kind for kind in operator.registry if kind is not object)
    return frozenset((*CONTAINERS, *affine, *MAKERS))


def _unsupported(layer: nn.Module, name: str) -> UnsupportedLayerError:
    """Return the error for a layer of a class without bounds."""
    names = ", ".join(sorted({kind.__name__ for kind in supported_types()}))
    return UnsupportedLayerError(
        f"Layer {name or 'model'!r} is a {type(layer).__name__}, which has no bound. Supported: {names}."
    )


def _refuse_inplace(layer: Residual, name: str) -> None:
    """Refuse a residual block in which an activation works in place.

    Raises:
        UnsupportedLayerError: naming the block.
    """
    if any(getattr(module, "inplace", False) for module in layer.modules()):
        raise UnsupportedLayerError(
            f"Layer {name!r}: an activation inside a Residual works in place and may overwrite what the "
            "shortcut reads; build it with inplace=False."
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
        self.modules: list[tuple[str, nn.Module, tuple[nn.Module | None, ...]]] = []

    def extend(self, layer: nn.Module, source: int, name: str) -> int:
        self.modules.append((name, layer, tuple(layer._modules.values())))
        if isinstance(layer, nn.Sequential):
            for child_name, child in layer._modules.items():  # named_children() would skip a layer used a second time
                if child is not None:
                    source = self.extend(child, source, joined_name(name, child_name))
            return source
        if isinstance(layer, Residual):
            return self._residual(layer, source, name)
        shape, index = self.nodes[source].shape, len(self.nodes)
        activation = isinstance(layer, self.activations)
        if not activation and operator.dispatch(type(layer)) is operator.dispatch(object):
            raise _unsupported(layer, name)
        if activation and "parametrizations" in layer._modules:
            raise UnsupportedLayerError(f"Layer {name!r}: thresholds that a parametrization computes have no bound.")
        try:
            if activation:
                function = nonlinearity(layer, shape)
                node: Node = Activation(index, (source,), name, layer, shape, function, _held(layer))
            else:
                self.operators[index] = operator(layer, shape)
                node = Affine(index, (source,), name, layer, shape, self.operators[index].output_shape)
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
        branch = self.extend(layer.branch, source, joined_name(name, "branch"))
        shortcut = self.extend(layer.shortcut, source, joined_name(name, "shortcut"))
        first, second = self.nodes[branch].shape, self.nodes[shortcut].shape
        if first != second:
            raise UnsupportedLayerError(
                f"Layer {name!r}: branch and shortcut yield shapes {first} and {second}; they must agree."
            )
        self.nodes.append(Add(len(self.nodes), (branch, shortcut), name, first))
        return len(self.nodes) - 1
