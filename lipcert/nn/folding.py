"""Networks whose parametrized weights are stored as numbers."""

import copy

import torch
from torch import Tensor, nn

from lipcert.nn.integrity import parametrized, refuse_parametrizations


@torch.no_grad()
def folded(model: nn.Module) -> nn.Module:
    """Return the network with every parametrized tensor stored as what its parametrization yields now.

    A parametrization computes its tensor at each use, in sums whose rounding differs from one number of threads to
    another; nothing is proved of that. The folded network is the same wherever it runs, and what certificates, records
    and attacks are about. Tensors are computed in float64 and rounded to the precision of their parameters.

    Args:
        model: returned itself where nothing is parametrized, else untouched.

    Raises:
        UnsupportedLayerError: for a parametrization that is not known to yield the same tensor at each use: known are
            `AlmostOrthogonal`, `Orthogonal`, `LinearResidual`, and, in eval mode, torch's `orthogonal`, `spectral_norm`
            and `weight_norm`.
    """
    found = [(name, layer) for name, layer in model.named_modules() if parametrized(layer)]
    for name, layer in found:
        refuse_parametrizations(layer, name)
    if not found:
        return model
    twin = copy.deepcopy(model)
    for layer in [layer for layer in twin.modules() if parametrized(layer)]:
        _fold(layer)
    return twin


def _fold(layer: nn.Module) -> None:
    """Store the parametrized tensors of a layer, in place; those of its class, which copies share, stay as they are."""
    registered = layer._modules.pop("parametrizations")
    assert isinstance(registered, nn.ModuleDict)
    layer.__class__ = type(layer).__bases__[0]
    for name, steps in registered.items():
        original = next(iter((*steps.parameters(recurse=False), *steps.buffers(recurse=False))))
        dtype, learned = original.dtype, isinstance(original, nn.Parameter)
        tensor: Tensor = copy.deepcopy(steps).double()().to(dtype)  # others may share its parameters
        if learned:
            layer._parameters = {name: nn.Parameter(tensor), **layer._parameters}
        else:
            layer._buffers = {name: tensor, **layer._buffers}
