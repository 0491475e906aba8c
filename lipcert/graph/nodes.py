"""The graph that a model becomes: affine, activation and sum nodes in the order in which they are executed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count

from torch import Tensor, nn

from lipcert.graph.activations import Nonlinearity
from lipcert.graph.errors import UnsupportedLayerError
from lipcert.graph.layers import operator
from lipcert.graph.operators import Operator, Shape


@dataclass(frozen=True, eq=False)
class Image:
    """The image itself: node 0. `shape`: without the batch."""

    shape: Shape
    index: int = 0
    name: str = ""
    sources: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Affine:
    """An affine layer.

    Attributes:
        index: of the node; `sources`: that of the node it is applied to.
        name: of the layer in the model.
        layer: of a class in the table of affine layers.
        input_shape, shape: of its input and of its output, without the batch.
    """

    index: int
    sources: tuple[int, ...]
    name: str
    layer: nn.Module
    input_shape: Shape
    shape: Shape

    def operator(self) -> Operator:
        """Return the layer's operator with its present weights.

        Raises:
            UnsupportedLayerError: for a layer that is not affine in its present mode.
        """
        try:
            made = operator(self.layer, self.input_shape)
        except UnsupportedLayerError as error:
            raise UnsupportedLayerError(f"Layer {self.name!r}: {error}") from None
        if made.output_shape != self.shape:
            raise UnsupportedLayerError(
                f"Layer {self.name!r} yields {made.output_shape}, at compilation it was {self.shape}; compile it anew."
            )
        return made


@dataclass(frozen=True, eq=False)
class Activation:
    """An activation layer: `function` says what bounds ask of it. Other attributes as of `Affine`.

    `tensors`: its parameters and buffers at compilation, which `function` refers to.
    """

    index: int
    sources: tuple[int, ...]
    name: str
    layer: nn.Module
    shape: Shape
    function: Nonlinearity
    tensors: tuple[Tensor | None, ...]


@dataclass(frozen=True, eq=False)
class Add:
    """The sum of two nodes; `name`: of the residual block."""

    index: int
    sources: tuple[int, int]
    name: str
    shape: Shape


Node = Image | Affine | Activation | Add

_KEYS = count()


@dataclass(frozen=True, eq=False)
class Graph:
    """A model as nodes; the last one is the output.

    Weights are those of the model at each use; what must not change after compilation are its layers and hooks, which
    `check_unchanged` makes sure of.

    Attributes:
        nodes: in the order of execution, each behind its sources.
        modules: every layer of the model that was followed, containers too, by name, with its children of then.
        key: tells graphs apart whose weights nobody else holds, so that norms may be kept; None for others.
        kept: operators at compilation, which are those of a graph with a key.
    """

    nodes: tuple[Node, ...]
    modules: tuple[tuple[str, nn.Module, tuple[nn.Module | None, ...]], ...]
    key: int | None = None
    kept: Mapping[int, Operator] = field(default_factory=dict)

    @property
    def image_shape(self) -> Shape:
        """Shape of an image, without the batch."""
        return self.nodes[0].shape

    @property
    def activations(self) -> Iterator[Activation]:
        """The activations, in order."""
        return (node for node in self.nodes if isinstance(node, Activation))

    def operators(self) -> Mapping[int, Operator]:
        """Return the operator of every affine node, by index, with present weights.

        Raises:
            UnsupportedLayerError: for a layer that is not affine in its present mode.
        """
        if self.key is not None:
            return self.kept
        return {node.index: node.operator() for node in self.nodes if isinstance(node, Affine)}

    @cached_property
    def before_output(self) -> frozenset[int]:
        """Nodes from which the output is reached by affine and sum nodes alone, itself included."""
        found = {self.nodes[-1].index}
        for node in reversed(self.nodes):
            if node.index in found and not isinstance(node, Activation):
                found.update(node.sources)
        return frozenset(found)

    @cached_property
    def before_last(self) -> frozenset[int]:
        """Nodes from which the last activations are reached by affine and sum nodes alone: their boxes are margins'."""
        found = {node.sources[0] for node in self.activations if node.index in self.before_output}
        for node in reversed(self.nodes):
            if node.index in found and not isinstance(node, Activation):
                found.update(node.sources)
        return frozenset(found)

    @cached_property
    def balls_known(self) -> bool:
        """Whether at most one operator with several entries a row lies between two activations, and no sum."""
        mixing = dict.fromkeys(range(len(self.nodes)), 0)
        for node in self.nodes:
            if isinstance(node, Add):
                return False
            if isinstance(node, Affine):
                mixing[node.index] = mixing[node.sources[0]] + self.kept[node.index].mixes
        return max(mixing.values()) <= 1

    def boxes(self, skipped: frozenset[str]) -> frozenset[int]:
        """Return the nodes whose boxes are asked for, by index.

        Masks of activations ask for those before them, margins for those of the last activations; each is made of the
        boxes before it, but behind the affine layers named in `skipped`.
        """
        found = {node.index for node in self.activations if node.index in self.before_output}
        for node in reversed(self.nodes):
            asks = isinstance(node, Activation) or (node.index in found and node.name not in skipped)
            if asks:
                found.update(node.sources)
        return frozenset(found)

    @cached_property
    def followers(self) -> dict[int, tuple[str, ...]]:
        """Names of the activations that each node reaches by affine and sum nodes alone, by index."""
        found: dict[int, tuple[str, ...]] = {node.index: () for node in self.nodes}
        for node in reversed(self.nodes):
            reached = (node.name,) if isinstance(node, Activation) else found[node.index]
            for source in node.sources:
                found[source] = tuple(dict.fromkeys((*found[source], *reached)))
        return found

    @cached_property
    def last_use(self) -> dict[int, int]:
        """The last node that is applied to each node, by index."""
        return {source: node.index for node in self.nodes for source in node.sources}

    def frozen(self) -> Graph:
        """Return the graph with a key of its own: to be called where nobody else holds the weights."""
        return replace(self, key=next(_KEYS))
