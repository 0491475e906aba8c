"""Backward linear bounds (CROWN) of whole networks over l2 balls, with free slopes (alpha-CROWN)."""

from lipcert.crown.ball import Ball
from lipcert.crown.dual import dual_boxes
from lipcert.crown.intermediate import proved_state, refined
from lipcert.crown.lines import Interval
from lipcert.crown.network import Bend, Linear, Network, Sum, network_of
from lipcert.crown.slopes import bounded
from lipcert.crown.substitution import Rows, State, substitute

__all__ = [
    "Ball",
    "Bend",
    "Interval",
    "Linear",
    "Network",
    "Rows",
    "State",
    "Sum",
    "bounded",
    "dual_boxes",
    "network_of",
    "proved_state",
    "refined",
    "substitute",
]
