"""Whether an imported network yields the logits of the original."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

TOLERANCE = 1e-5
"""Largest difference of two logits, relative to the largest of an image where it is above 1."""

IMAGES = 4
"""Random images on which the two are compared."""

Network = Callable[[Tensor], Tensor]


@torch.no_grad()
def refuse_difference(
    original: Network, graph: Network, image_shape: tuple[int, ...], dtype: torch.dtype, images: Tensor | None
) -> None:
    """Refuse an import that yields other logits than the original on random images, or on those given.

    Raises:
        ValueError: with the difference, or for an original that yields other logits the second time.
    """
    generator = torch.Generator().manual_seed(0)
    batches = [torch.rand(count, *image_shape, generator=generator, dtype=dtype) for count in (IMAGES, 1)]
    batches += [] if images is None else list(images.to(dtype).split(32))
    for batch in batches:
        expected, found = original(batch.clone()), graph(batch)
        again = original(batch.clone())
        if not torch.equal(expected, again):
            raise ValueError("The network yields other logits for the same images the second time.")
        if expected.shape != found.shape:
            raise ValueError(f"The network yields logits {tuple(expected.shape)}, as imported {tuple(found.shape)}.")
        scale = expected.abs().flatten(1).amax(dim=1).clamp_min(1)
        difference = float(((expected - found).abs().flatten(1).amax(dim=1) / scale).max())
        if not difference <= TOLERANCE:
            raise ValueError(
                f"As imported the network yields logits that differ by {difference:.2g} from the original's, more than "
                f"{TOLERANCE:g}; its forward does not do the same for all images."
            )
