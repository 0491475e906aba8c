"""A model becomes a graph of affine, activation and sum nodes once; every bound runs over it."""

from lipcert.graph.activations import Clamp, Enclosed, Lines, Nonlinearity, Step, register_activation
from lipcert.graph.compile import (
    Graph,
    check_unchanged,
    compile_graph,
    is_affine,
    operator,
    register_affine,
    supported_types,
)
from lipcert.graph.moving import PADDING_MODES
from lipcert.graph.nodes import Activation, Add, Affine, Image, Node
from lipcert.graph.operators import (
    Box,
    LinearMap,
    NonFiniteBoundError,
    Operator,
    Permutation,
    Shape,
    map_of,
)
from lipcert.graph.pairs import PairSort, Reflection
from lipcert.graph.piecewise import Bend
from lipcert.graph.pooling import AveragePool
from lipcert.graph.scaling import scaling
from lipcert.graph.smooth import Smooth
from lipcert.graph.transposed import TransposedConvolution
from lipcert.graph.windows import WindowMaximum
from lipcert.nn import UnsupportedLayerError

__all__ = [
    "PADDING_MODES",
    "Activation",
    "Add",
    "Affine",
    "AveragePool",
    "Bend",
    "Box",
    "Clamp",
    "Enclosed",
    "Graph",
    "Image",
    "LinearMap",
    "Lines",
    "Node",
    "NonFiniteBoundError",
    "Nonlinearity",
    "Operator",
    "PairSort",
    "Permutation",
    "Reflection",
    "Shape",
    "Smooth",
    "Step",
    "TransposedConvolution",
    "UnsupportedLayerError",
    "WindowMaximum",
    "check_unchanged",
    "compile_graph",
    "is_affine",
    "map_of",
    "operator",
    "register_activation",
    "register_affine",
    "scaling",
    "supported_types",
]
