"""The nodes of a graph: the image, affine layers, activations and sums."""

from dataclasses import dataclass

from torch import Tensor, nn

from lipcert.graph.activations import Nonlinearity
from lipcert.graph.operators import Shape


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
        mixes: rows of its matrix have several entries, so that its box costs products of its own.
    """

    index: int
    sources: tuple[int, ...]
    name: str
    layer: nn.Module
    input_shape: Shape
    shape: Shape
    mixes: bool


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
    """The sum of two nodes; `name`: of the residual block, or of the `Sum`."""

    index: int
    sources: tuple[int, int]
    name: str
    shape: Shape


Node = Image | Affine | Activation | Add
