"""From a model to a graph: every layer is accepted or refused here, by name."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from lipcert.graph.activations import MAKERS, nonlinearity
from lipcert.graph.checks import refuse_altered, refuse_inplace, unsupported
from lipcert.graph.errors import UnsupportedLayerError
from lipcert.graph.layers import operator
from lipcert.graph.nodes import Activation, Add, Affine, Graph, Image, Node
from lipcert.graph.operators import Operator, Shape
from lipcert.nn import Residual
from lipcert.nn.integrity import parametrized


def compile_graph(model: nn.Module, image_shape: Sequence[int]) -> Graph:
    """Return the graph of a tree of supported layers.

    Args:
        model: `Sequential` and `Residual` containers of layers in the tables of affine layers and of activations.
        image_shape: of one image, without the batch.

    Raises:
        UnsupportedLayerError: naming a layer that has no sound bound, or does not fit the shape that reaches it.
    """
    refuse_altered(model.named_modules())
    compiler = _Compiler(tuple(image_shape))
    with torch.no_grad():
        compiler.extend(model, 0, "")
    return Graph(tuple(compiler.nodes), tuple(compiler.modules), kept=compiler.operators)


def joined_name(name: str, child: str) -> str:
    """Return the name of a child in the model."""
    return f"{name}.{child}" if name else child


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
            raise unsupported(layer, name)
        if activation and parametrized(layer):
            raise UnsupportedLayerError(f"Layer {name!r}: thresholds that a parametrization computes have no bound.")
        try:
            if activation:
                self.nodes.append(Activation.of(index, source, name, layer, shape, nonlinearity(layer, shape)))
            else:
                self.operators[index] = operator(layer, shape)
                self.nodes.append(Affine(index, (source,), name, layer, shape, self.operators[index].output_shape))
        except UnsupportedLayerError as error:
            raise UnsupportedLayerError(f"Layer {name!r}: {error}") from None
        return index

    def _residual(self, layer: Residual, source: int, name: str) -> int:
        refuse_inplace(layer, name)
        branch = self.extend(layer.branch, source, joined_name(name, "branch"))
        shortcut = self.extend(layer.shortcut, source, joined_name(name, "shortcut"))
        first, second = self.nodes[branch].shape, self.nodes[shortcut].shape
        if first != second:
            raise UnsupportedLayerError(
                f"Layer {name!r}: branch and shortcut yield shapes {first} and {second}; they must agree."
            )
        self.nodes.append(Add(len(self.nodes), (branch, shortcut), name, first))
        return len(self.nodes) - 1
