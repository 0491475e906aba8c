"""Transforms of torchvision on training images, each image by itself, where it lies."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor

from lipcert.data.arrays import Split
from lipcert.system.errors import first_line
from lipcert.system.plugins import look_here

TRIED = 8
"""Images on which transforms are tried before training."""

Transform = Callable[[Tensor], Tensor]


def build_transform(settings: Mapping[str, Any] | None, split: Split) -> Transform | None:
    """Return what applies all transforms in their order, None without any.

    `settings`: transforms by name, each a function of an image (C, H, W) or a `_target_` with arguments that makes one.

    Raises:
        ValueError: where images do not keep their shape or leave [0, 1].
    """
    if not settings:
        return None
    from torchvision.transforms import v2  # only where it is used: it costs a second

    look_here()
    steps = [instantiate(each) if isinstance(each, Mapping) else each for each in settings.values()]
    whole: Transform = v2.Compose(steps)
    images, _ = split[:TRIED]
    try:
        found = transformed(images, whole, range(len(images)))
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"`data.transforms` cannot be applied to an image: {first_line(error)}") from error
    if found.shape != images.shape or not 0 <= found.min() <= found.max() <= 1:
        raise ValueError(
            f"`data.transforms` must leave images {tuple(images.shape[1:])} with pixels in [0, 1], got "
            f"{tuple(found.shape[1:])} from {found.min():.3g} to {found.max():.3g}; a normalisation belongs into the "
            "network, as lipcert.nn.Normalize."
        )
    return whole


def transformed(images: Tensor, transform: Transform, seeds: Iterable[int]) -> Tensor:
    """Return images (B, C, H, W) transformed one by one, what is random drawn by a seed for each."""
    changed = []
    with torch.random.fork_rng([images.device] if images.is_cuda else []):
        for image, seed in zip(images, seeds, strict=False):
            torch.manual_seed(seed)
            changed.append(transform(image))
    return torch.stack(changed) if changed else images
