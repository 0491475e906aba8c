"""Whether an imported network yields the logits of the original."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lipcert.system.errors import first_line

TOLERANCE, SHARE = 1e-5, 1e-3
"""Largest difference of two logits, relative to the largest of a batch where it is above 1; and its share of that."""

IMAGES = 4
"""Random images on which the two are compared."""

Network = Callable[[Tensor], Tensor]


@torch.no_grad()
def refuse_difference(
    original: Network, graph: Network, image_shape: tuple[int, ...], like: Tensor, images: Tensor | None
) -> None:
    """Refuse an import that yields other logits than the original on random images, or on those given.

    `like`: an empty tensor of the precision and on the device of both.

    Raises:
        ValueError: with the difference, or for an original that yields other logits the second time, or takes batches
            of one size alone.
    """
    generator = torch.Generator().manual_seed(0)
    batches = [torch.rand(count, *image_shape, generator=generator).to(like) for count in (IMAGES, 1)]
    batches += [] if images is None else list(images.to(like).split(32))
    for batch in batches:
        try:
            expected, again = original(batch.clone()), original(batch.clone())
        except (RuntimeError, ValueError, TypeError, LookupError) as error:
            raise ValueError(
                f"The network does not take a batch of {len(batch)} images ({first_line(error)})."
            ) from error
        found = graph(batch)
        if not torch.equal(expected, again):
            raise ValueError("The network yields other logits for the same images the second time.")
        if expected.shape != found.shape:
            raise ValueError(f"The network yields logits {tuple(expected.shape)}, as imported {tuple(found.shape)}.")
        scale, difference = float(expected.abs().max()), float((expected - found).abs().max())
        if not difference <= min(TOLERANCE * max(1.0, scale), SHARE * scale):
            raise ValueError(
                f"As imported the network yields logits that differ by {difference:.2g} from the original's, of up to "
                f"{scale:.2g}; it does not do the same for all images."
            )
