"""Networks: activations, normalisation, residual blocks and the published architectures."""

from lipcert.nn.activations import ClippedMaxMin, ClippedReLU, MaxMin
from lipcert.nn.almost_orthogonal import AlmostOrthogonal
from lipcert.nn.architectures import ACTIVATIONS, ARCHITECTURES, PARAMETRIZATIONS, build
from lipcert.nn.blocks import Normalize, Residual
from lipcert.nn.folding import folded
from lipcert.nn.integrity import UnsupportedLayerError

__all__ = [
    "ACTIVATIONS",
    "ARCHITECTURES",
    "PARAMETRIZATIONS",
    "AlmostOrthogonal",
    "ClippedMaxMin",
    "ClippedReLU",
    "MaxMin",
    "Normalize",
    "Residual",
    "UnsupportedLayerError",
    "build",
    "folded",
]
