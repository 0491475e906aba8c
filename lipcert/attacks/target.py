"""The network under attack: what it must be, how it is left as it was, and what it says at an attack's points."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lipcert.attacks.ball import PIXELS, Box, check_pixels
from lipcert.bounds import check_epsilon, robust_margin

Attack = Callable[[nn.Module, Tensor, Tensor, float], Tensor]
"""Takes a network, images (N, ...), labels (N,) and epsilon to points (N, ...)."""


def check_attackable(model: nn.Module, images: Tensor, epsilon: float, box: Box) -> None:
    """Raise ValueError for epsilon out of range, pixels outside of the box, or a model in train mode."""
    check_epsilon(epsilon)
    if model.training:
        raise ValueError("Expected a model in eval mode; call model.eval() first.")
    check_pixels(images, box)


@contextmanager
def without_gradients(model: nn.Module) -> Iterator[None]:
    """Let no gradient reach the parameters, whatever a library calls `backward` on."""
    trained = nn.ParameterList(parameter for parameter in model.parameters() if parameter.requires_grad)
    trained.requires_grad_(False)
    try:
        yield
    finally:
        trained.requires_grad_(True)


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


@torch.no_grad()
def margins(model: nn.Module, points: Tensor, labels: Tensor) -> Tensor:
    """Return z_y - max of the other logits as executed, their difference in float64, (B,); -inf for NaN."""
    margin = robust_margin(model(points).double(), labels)
    return margin.masked_fill(margin.isnan(), -torch.inf)


@torch.no_grad()
def correct(model: nn.Module, points: Tensor, labels: Tensor) -> Tensor:
    """Return which points are classified as their label, (B,) bool; a point with a NaN among its logits is not."""
    logits = model(points)
    return (logits.argmax(dim=1) == labels) & ~logits.isnan().any(dim=1)


def withstanding(model: nn.Module, images: Tensor, labels: Tensor, epsilon: float, attacks: Sequence[Attack]) -> Tensor:
    """Return which images are classified correctly, and still after every attack, (N,) bool.

    Attacks follow one another, each on the images that withstood those before, pixels in [0, 1].
    """
    check_attackable(model, images, epsilon, PIXELS)
    withstood = correct(model, images, labels)
    for attack in attacks:
        rows = withstood.nonzero()[:, 0]
        if len(rows):
            withstood[rows] = correct(model, attack(model, images[rows], labels[rows], epsilon), labels[rows])
    return withstood
