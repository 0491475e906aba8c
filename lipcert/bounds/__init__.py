"""Bounds: regions, rules, norms, Lipschitz constants and worst margins."""

from lipcert.bounds.analysis import (
    Analysis,
    analyze,
    check_epsilon,
    lipschitz_to_logits,
    robust_margin,
    worst_increase,
    worst_logits,
)
from lipcert.bounds.errors import NonFiniteBoundError, UnsupportedLayerError
from lipcert.bounds.lanczos import LanczosNorms, norm_upper_bound
from lipcert.bounds.power import PowerNorms
from lipcert.bounds.rules import ActivationBounds, Bound

__all__ = [
    "ActivationBounds",
    "Analysis",
    "Bound",
    "LanczosNorms",
    "NonFiniteBoundError",
    "PowerNorms",
    "UnsupportedLayerError",
    "analyze",
    "check_epsilon",
    "lipschitz_to_logits",
    "norm_upper_bound",
    "robust_margin",
    "worst_increase",
    "worst_logits",
]
