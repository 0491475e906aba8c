"""Spectral norms of linear maps: upper bounds for certificates, estimates to train on."""

from lipcert.norms.estimate import PowerNorms
from lipcert.norms.lanczos import Bracket, norm_bracket
from lipcert.norms.protocol import MapKey, Norms
from lipcert.norms.upper import UpperNorms, is_small

__all__ = [
    "Bracket",
    "MapKey",
    "Norms",
    "PowerNorms",
    "UpperNorms",
    "is_small",
    "norm_bracket",
]
