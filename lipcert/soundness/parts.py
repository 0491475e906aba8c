"""The parts of a network that a constant may be claimed of: layers, sums with all that leads to them, the whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lipcert.graph import Activation, Add, Affine, Graph, Image, Node, Operator
from lipcert.nn import LayerGraph, Sum
from lipcert.nn.layer_graph import IMAGE


@dataclass(frozen=True)
class Part:
    """A map inside a network.

    Attributes:
        name: of the layer, of the residual block or of the `Sum`; "" for the whole.
        kind: class of the layer; `block` for a sum and all between it and the node that both its sources come from.
        model: the map itself.
        inputs: what it is applied to at some images, (B, *shape).
        scales: it multiplies every pixel of an image by itself, before any layer mixes them: a normalisation.
    """

    name: str
    kind: str
    model: nn.Module
    inputs: Tensor
    scales: bool = False


@torch.no_grad()
def parts_of(graph: Graph, images: Tensor, also: Sequence[str] = ()) -> list[Part]:
    """Return the layers of a graph and its blocks, in order; those whose constant is 1 by what they are only if named.

    Args:
        graph: of a network in the dtype of the images.
        images: (B, *image_shape); no layer changes them.
        also: names of layers to return whatever they are.

    Raises:
        ValueError: for a name that is no layer's, naming those that are.
    """
    names = {node.name for node in graph.nodes[1:]}
    unknown = [name for name in also if name not in names]
    if unknown:
        raise ValueError(
            f"`claims` names {unknown[0]!r}, which is no layer of the network; its layers are "
            f"{', '.join(sorted(names, key=str))}."
        )
    values, origins, found = [images], _common_origins(graph.nodes), list[Part]()
    operators, scaled = graph.operators(), {0}
    for node in graph.nodes[1:]:
        before = [values[source] for source in node.sources]
        if isinstance(node, Affine | Activation):
            scales = isinstance(node, Affine) and not node.mixes and node.sources[0] in scaled
            if scales:
                scaled.add(node.index)
            values.append(node.layer(before[0].clone()))  # layers may work in place
            if node.name in also or not _passes(node, operators.get(node.index)):
                found.append(Part(node.name, type(node.layer).__name__, nn.Sequential(node.layer), before[0], scales))
        else:
            values.append(before[0] + before[1])
            origin = origins[node.index]
            found.append(Part(node.name, "block", _between(graph.nodes, origin, node.index), values[origin]))
    return found


def _passes(node: Affine | Activation, operator: Operator | None) -> bool:
    """Return whether a layer's constant is 1 by what it is: it moves entries, or no activation's own is given."""
    if operator is None:
        return isinstance(node, Activation) and node.function.lipschitz is None
    return operator.moves


def _common_origins(nodes: Sequence[Node]) -> list[int]:
    """Return, for each node, the last one before it that all paths from the image lead through."""
    origins = [0]
    for node in nodes[1:]:
        first, *others = node.sources
        for other in others:
            while first != other:
                first, other = (origins[first], other) if first > other else (first, origins[other])
        origins.append(first)
    return origins


def _between(nodes: Sequence[Node], start: int, end: int) -> LayerGraph:
    """Return the map from the output of node `start` to that of node `end`, whose paths all come through the former."""
    kept, left = set[int](), [end]
    while left:
        index = left.pop()
        if index not in kept and index != start:
            kept.add(index)
            left += nodes[index].sources
    layers, sources = dict[str, nn.Module](), dict[str, list[str]]()
    for index in sorted(kept):
        node = nodes[index]
        assert not isinstance(node, Image)
        layers[str(index)] = Sum() if isinstance(node, Add) else node.layer
        sources[str(index)] = [IMAGE if source == start else str(source) for source in node.sources]
    return LayerGraph(layers, sources)
