"""A model becomes a graph of affine, activation and sum nodes once; every bound runs over it."""

from lipcert.graph.activations import Clamp, Nonlinearity, PairSort, register_activation
from lipcert.graph.compile import check_unchanged, compile_graph, supported_types
from lipcert.graph.errors import NonFiniteBoundError, UnsupportedLayerError
from lipcert.graph.layers import is_affine, operator, register_affine
from lipcert.graph.nodes import Activation, Add, Affine, Graph, Image, Node
from lipcert.graph.operators import Box, LinearMap, Operator, Permutation, Shape, identity_map, map_of
from lipcert.graph.scaling import scaling

__all__ = [
    "Activation",
    "Add",
    "Affine",
    "Box",
    "Clamp",
    "Graph",
    "Image",
    "LinearMap",
    "Node",
    "NonFiniteBoundError",
    "Nonlinearity",
    "Operator",
    "PairSort",
    "Permutation",
    "Shape",
    "UnsupportedLayerError",
    "check_unchanged",
    "compile_graph",
    "identity_map",
    "is_affine",
    "map_of",
    "operator",
    "register_activation",
    "register_affine",
    "scaling",
    "supported_types",
]
