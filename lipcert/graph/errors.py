"""Errors that name what cannot be bounded."""

from lipcert.nn import UnsupportedLayerError

__all__ = ["NonFiniteBoundError", "UnsupportedLayerError"]


class NonFiniteBoundError(ArithmeticError):
    """A bound came out NaN: nothing may be concluded from it."""
