"""Errors that name what cannot be bounded."""


class UnsupportedLayerError(NotImplementedError):
    """A layer whose output region cannot be bounded soundly, named with its place in the model."""


class NonFiniteBoundError(ArithmeticError):
    """A bound came out NaN: nothing may be concluded from it."""
