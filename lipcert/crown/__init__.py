"""Backward linear bounds (CROWN) of whole networks over l2 balls, with free slopes (alpha-CROWN)."""

from lipcert.crown.ball import Ball
from lipcert.crown.counterexamples import refuted_from
from lipcert.crown.dual import dual_boxes
from lipcert.crown.intermediate import proved_state, refined
from lipcert.crown.lines import Interval
from lipcert.crown.search import Effort, bounded, proved
from lipcert.crown.state import State, boxes_of_steps, has_steps, split_activations
from lipcert.crown.substitution import Rows, substitute

__all__ = [
    "Ball",
    "Effort",
    "Interval",
    "Rows",
    "State",
    "bounded",
    "boxes_of_steps",
    "dual_boxes",
    "has_steps",
    "proved",
    "proved_state",
    "refined",
    "refuted_from",
    "split_activations",
    "substitute",
]
