"""Networks: activations, normalisation, residual blocks and the published architectures."""

from lipcert.nn.activations import ClippedMaxMin, ClippedReLU, MaxMin
from lipcert.nn.almost_orthogonal import AlmostOrthogonal
from lipcert.nn.architectures import ACTIVATIONS, ARCHITECTURES, PARAMETRIZATIONS, build
from lipcert.nn.blocks import Normalize, Residual
from lipcert.nn.channels import ChannelPad, GroupSort2, HalvesToPairs, PairsToHalves
from lipcert.nn.folding import folded
from lipcert.nn.integrity import UnsupportedLayerError

__all__ = [
    "ACTIVATIONS",
    "ARCHITECTURES",
    "PARAMETRIZATIONS",
    "AlmostOrthogonal",
    "ChannelPad",
    "ClippedMaxMin",
    "ClippedReLU",
    "GroupSort2",
    "HalvesToPairs",
    "MaxMin",
    "Normalize",
    "PairsToHalves",
    "Residual",
    "UnsupportedLayerError",
    "build",
    "folded",
]
