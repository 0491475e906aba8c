"""Backward linear bounds (CROWN) of whole networks over l2 balls, with free slopes (alpha-CROWN)."""

from lipcert.bounds.backward.ball import Ball
from lipcert.bounds.backward.dual import dual_boxes
from lipcert.bounds.backward.intermediate import proved_state, refined
from lipcert.bounds.backward.lines import Interval
from lipcert.bounds.backward.network import nodes_of
from lipcert.bounds.backward.nodes import Affine, Clamp, Node, Sum, clamps
from lipcert.bounds.backward.slopes import bounded
from lipcert.bounds.backward.substitution import Rows, State, substitute

__all__ = [
    "Affine",
    "Ball",
    "Clamp",
    "Interval",
    "Node",
    "Rows",
    "State",
    "Sum",
    "bounded",
    "clamps",
    "dual_boxes",
    "nodes_of",
    "proved_state",
    "refined",
    "substitute",
]
