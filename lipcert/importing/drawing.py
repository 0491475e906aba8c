"""Layers of an imported network as they are found, node by node, until they are a `LayerGraph`."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lipcert.nn import LayerGraph, Sum, UnsupportedLayerError
from lipcert.nn.layer_graph import IMAGE
from lipcert.system.errors import first_line

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Value:
    """What a layer of the drawing yields: its name, "" for the image, and its shape without the batch."""

    name: str
    shape: Shape


def unsupported(node: str, kind: str, reason: str) -> UnsupportedLayerError:
    """Return the refusal of a node."""
    return UnsupportedLayerError(f"Node {node!r} ({kind}): {reason}")


@dataclass
class Drawing:
    """A graph of layers that grows.

    Attributes:
        image_shape: without the batch.
        like: an empty tensor that gives the network's precision and device.
        layers, sources: as of a `LayerGraph`.
    """

    image_shape: Shape
    like: Tensor
    layers: dict[str, nn.Module] = field(default_factory=dict)
    sources: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def dtype(self) -> torch.dtype:
        """The network's precision."""
        return self.like.dtype

    @property
    def image(self) -> Value:
        """The image."""
        return Value(IMAGE, self.image_shape)

    @torch.no_grad()
    def apply(self, node: str, layer: nn.Module, source: Value, kept: bool = False) -> Value:
        """Append a layer and return what it yields; one that works in place is copied and does not.

        `kept`: it is the network's own, and stays in its mode.

        Raises:
            UnsupportedLayerError: for a layer that does not take the source's shape, naming the node.
        """
        if getattr(layer, "inplace", False):
            layer = copy.copy(layer)
            layer.inplace = False  # type: ignore[assignment]
        if not kept:
            layer.eval()
        try:
            shape = tuple(layer(self.like.new_zeros(1, *source.shape)).shape)
        except (RuntimeError, ValueError, TypeError, LookupError) as error:
            kind = type(layer).__name__
            raise unsupported(node, kind, f"it does not take inputs {source.shape}: {first_line(error)}") from error
        return self._appended(node, layer, (source,), shape[1:])

    def add(self, node: str, first: Value, second: Value) -> Value:
        """Append the sum of two values of one shape and return it.

        Raises:
            UnsupportedLayerError: for other shapes, naming the node.
        """
        if first.shape != second.shape:
            raise unsupported(node, "Sum", f"it adds values of shapes {first.shape} and {second.shape}.")
        return self._appended(node, Sum().eval(), (first, second), first.shape)

    def finished(self, output: Value) -> LayerGraph:
        """Return the graph of the layers that `output` depends on, in eval mode; layers are left as they are."""
        if not output.name:
            output = self.apply("output", nn.Identity(), output)
        needed, kept = {output.name}, dict[str, nn.Module]()
        for name in reversed(self.layers):
            if name in needed:
                needed.update(self.sources[name])
                kept = {name: self.layers[name], **kept}
        graph = LayerGraph(kept, {name: self.sources[name] for name in kept})
        graph.training = False
        return graph

    def _appended(self, node: str, layer: nn.Module, sources: tuple[Value, ...], shape: Shape) -> Value:
        name = self._free(node)
        self.layers[name] = layer
        self.sources[name] = tuple(source.name for source in sources)
        return Value(name, shape)

    def _free(self, node: str) -> str:
        """Return a name for a layer that no other has, nor an attribute of modules."""
        stem = name = re.sub(r"\W", "_", node).strip("_") or "node"
        number = 1
        while name in self.layers or hasattr(LayerGraph, name) or name in vars(nn.Module()) or name == "sources":
            name, number = f"{stem}_{number}", number + 1
        return name
