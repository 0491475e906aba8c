"""Leave a network as it was: modes, flags and gradients of its parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from lipcert.attacks.box import Box, check_pixels
from lipcert.bounds import check_epsilon


def check_attackable(model: nn.Module, images: Tensor, epsilon: float, box: Box) -> None:
    """Raise ValueError for epsilon out of range, pixels outside of the box, or a model in train mode."""
    check_epsilon(epsilon)
    if model.training:
        raise ValueError("Expected a model in eval mode; call model.eval() first.")
    check_pixels(images, box)


@contextmanager
def without_gradients(model: nn.Module) -> Iterator[None]:
    """Let no gradient reach the parameters, whatever a library calls `backward` on."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module into eval mode, and back into the mode that each had."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
