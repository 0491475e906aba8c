"""Spectral norms of linear maps: upper bounds for certificates, estimates to train on."""

from lipcert.norms.estimate import PowerNorms
from lipcert.norms.exact import Bracket, is_small
from lipcert.norms.lanczos import norm_bracket, norm_upper_bound
from lipcert.norms.protocol import MapKey, Norms
from lipcert.norms.upper import UpperNorms

__all__ = [
    "Bracket",
    "MapKey",
    "Norms",
    "PowerNorms",
    "UpperNorms",
    "is_small",
    "norm_bracket",
    "norm_upper_bound",
]
