"""Networks with a `forward` of their own, as layers that can be trained in their place."""

from collections.abc import Sequence

import torch
from torch import nn

from lipcert.importing.torch_program import from_torch
from lipcert.nn import UnsupportedLayerError
from lipcert.nn.integrity import has_own_forward, is_layer

TOLERANCE = 1e-3
"""Largest difference of a gradient, as a share of the largest one of its parameter."""


def trainable(model: nn.Module, image_shape: Sequence[int]) -> nn.Module:
    """Return the network itself where it is a tree of layers, else its graph, which shares every parameter.

    Modules with a `forward` of their own stay in eval mode from now on: what they compute is followed once.

    Raises:
        UnsupportedLayerError: naming a layer or node that has no bounds, or a parameter whose gradient the graph lacks.
    """
    if not has_own_forward(model):
        return model
    for module in model.modules():
        if not is_layer(type(module)):
            module.training = False
    graph = from_torch(model, tuple(image_shape))
    _refuse_other_gradients(model, graph, image_shape)
    return graph


def _refuse_other_gradients(model: nn.Module, graph: nn.Module, image_shape: Sequence[int]) -> None:
    named = {name: each for name, each in model.named_parameters() if each.requires_grad}
    like = next(iter(named.values()), torch.empty(0))
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, *image_shape, generator=generator).to(like)
    found = []
    for network in (model, graph):
        logits = network(images)
        weights = torch.rand(logits.shape, generator=generator.manual_seed(1)).to(logits)
        found.append(torch.autograd.grad((logits * weights).sum(), list(named.values()), allow_unused=True))
    for name, own, other in zip(named, *found, strict=True):
        if own is None and other is None:
            continue
        scale = 0.0 if own is None else float(own.abs().max())
        if own is None or other is None or float((own - other).abs().max()) > TOLERANCE * scale:
            raise UnsupportedLayerError(
                f"`{name}` is used in a way that layers do not follow when it is trained; write that part as a layer, "
                "or train the network otherwise and certify it."
            )
