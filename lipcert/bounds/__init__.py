"""Bounds: regions, rules, norms, Lipschitz constants and worst margins."""

from lipcert.bounds import activation_rules as _activation_rules  # noqa: F401 - registers the rules
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
from lipcert.bounds.closing import ActivationBounds, Bound, Closing, Masks, Walk, close
from lipcert.bounds.economy import Economy
from lipcert.bounds.errors import NonFiniteBoundError, UnsupportedLayerError
from lipcert.bounds.lanczos import norm_upper_bound
from lipcert.bounds.lazy import Lazy
from lipcert.bounds.operators import Operator
from lipcert.bounds.power import PowerNorms
from lipcert.bounds.region import Region
from lipcert.bounds.rounding import Arithmetic, Rounding
from lipcert.bounds.rules import apply_rule, register_affine
from lipcert.bounds.upper import UpperNorms
from lipcert.bounds.warm_start import WarmStart

__all__ = [
    "ActivationBounds",
    "Analysis",
    "Arithmetic",
    "Bound",
    "Closing",
    "Economy",
    "Lazy",
    "Masks",
    "NonFiniteBoundError",
    "Operator",
    "PowerNorms",
    "Region",
    "Rounding",
    "UnsupportedLayerError",
    "UpperNorms",
    "Walk",
    "WarmStart",
    "analyze",
    "apply_rule",
    "check_epsilon",
    "close",
    "lipschitz_to_logits",
    "logit_rounding",
    "norm_upper_bound",
    "register_affine",
    "robust_margin",
    "worst_increase",
    "worst_logits",
]
