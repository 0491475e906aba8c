"""Which pixels an attack may use."""

from __future__ import annotations

from torch import Tensor

Box = tuple[float, float]
"""Smallest and largest pixel that an attack may use."""

PIXELS: Box = (0.0, 1.0)


def unbounded(epsilon: float) -> Box:
    """Return the box around [0, 1] that no pixel leaves which moves by at most `epsilon`."""
    return (-epsilon, 1 + epsilon)


def check_pixels(images: Tensor, box: Box) -> None:
    """Raise ValueError unless every pixel of `images` lies in `box`."""
    lower, upper = box
    if not bool(((images >= lower) & (images <= upper)).all()):
        raise ValueError(
            f"Expected pixels in [{lower:g}, {upper:g}], got {images.min().item():g} to {images.max().item():g}; "
            "a normalisation belongs inside the network (lipcert.nn.Normalize)."
        )
