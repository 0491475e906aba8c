"""Bounds: reachable regions, Lipschitz constants and worst margins, by one loop over the nodes of a graph."""

from lipcert.bounds.activation import ActivationBounds, Bound, Near
from lipcert.bounds.analysis import RULES, Analysis, analyze, check_epsilon
from lipcert.bounds.logits import lipschitz_to_logits
from lipcert.bounds.margins import logit_rounding, robust_margin, worst_increase, worst_logits
from lipcert.bounds.plan import measure_plan
from lipcert.bounds.product import Plan
from lipcert.bounds.region import Region
from lipcert.bounds.rounding import Arithmetic, Rounding
from lipcert.graph import NonFiniteBoundError, UnsupportedLayerError

__all__ = [
    "RULES",
    "ActivationBounds",
    "Analysis",
    "Arithmetic",
    "Bound",
    "Near",
    "NonFiniteBoundError",
    "Plan",
    "Region",
    "Rounding",
    "UnsupportedLayerError",
    "analyze",
    "check_epsilon",
    "lipschitz_to_logits",
    "logit_rounding",
    "measure_plan",
    "robust_margin",
    "worst_increase",
    "worst_logits",
]
