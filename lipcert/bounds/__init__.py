"""Bounds: regions, rules, norms, Lipschitz constants and worst margins."""

from lipcert.bounds.analysis import (
    Analysis,
    analyze,
    check_epsilon,
    lipschitz_to_logits,
    logit_rounding,
    robust_margin,
    worst_increase,
    worst_logits,
)
from lipcert.bounds.closing import ActivationBounds, Bound
from lipcert.bounds.economy import Economy
from lipcert.bounds.errors import NonFiniteBoundError, UnsupportedLayerError
from lipcert.bounds.lanczos import norm_upper_bound
from lipcert.bounds.power import PowerNorms
from lipcert.bounds.rounding import Arithmetic
from lipcert.bounds.upper import UpperNorms
from lipcert.bounds.warm_start import WarmStart

__all__ = [
    "ActivationBounds",
    "Analysis",
    "Arithmetic",
    "Bound",
    "Economy",
    "NonFiniteBoundError",
    "PowerNorms",
    "UnsupportedLayerError",
    "UpperNorms",
    "WarmStart",
    "analyze",
    "check_epsilon",
    "lipschitz_to_logits",
    "logit_rounding",
    "norm_upper_bound",
    "robust_margin",
    "worst_increase",
    "worst_logits",
]
