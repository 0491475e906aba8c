"""Networks: activations, normalisation, residual blocks and the published architectures."""

from lipcert.nn.activations import Abs, ClippedMaxMin, ClippedReLU, MaxMin
from lipcert.nn.almost_orthogonal import AlmostOrthogonal
from lipcert.nn.architectures import ACTIVATIONS, ARCHITECTURES, PARAMETRIZATIONS, build
from lipcert.nn.blocks import LinearResidual, Normalize, Residual, parametrize_residual
from lipcert.nn.channels import ChannelPad, GroupSort2, HalvesToPairs, PairsToHalves
from lipcert.nn.folding import folded
from lipcert.nn.householder import Householder
from lipcert.nn.imported import ElementwiseAffine, Permute
from lipcert.nn.integrity import UnsupportedLayerError
from lipcert.nn.layer_graph import LayerGraph, Sum
from lipcert.nn.modern import lipconvnet, liresnet, mlp
from lipcert.nn.orthogonal import ORTHOGONAL, Orthogonal, parametrize_orthogonal

__all__ = [
    "ACTIVATIONS",
    "ARCHITECTURES",
    "ORTHOGONAL",
    "PARAMETRIZATIONS",
    "Abs",
    "AlmostOrthogonal",
    "ChannelPad",
    "ClippedMaxMin",
    "ClippedReLU",
    "ElementwiseAffine",
    "GroupSort2",
    "HalvesToPairs",
    "Householder",
    "LayerGraph",
    "LinearResidual",
    "MaxMin",
    "Normalize",
    "Orthogonal",
    "PairsToHalves",
    "Permute",
    "Residual",
    "Sum",
    "UnsupportedLayerError",
    "build",
    "folded",
    "lipconvnet",
    "liresnet",
    "mlp",
    "parametrize_orthogonal",
    "parametrize_residual",
]
