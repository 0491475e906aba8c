"""Layers for what functions of imported networks do: arithmetic with constants, other orders of dimensions."""

from collections.abc import Sequence

from torch import Tensor, nn


class ElementwiseAffine(nn.Module):
    """Multiply by constants, then add constants: scale * h + shift.

    Args:
        scale: broadcast to (1, *shape); None for 1.
        shift: broadcast to (1, *shape); None for 0.

    Raises:
        ValueError: for neither.
    """

    def __init__(self, scale: Tensor | None = None, shift: Tensor | None = None) -> None:
        super().__init__()
        if scale is None and shift is None:
            raise ValueError("Expected a `scale`, a `shift` or both, got neither; nn.Identity does nothing.")
        for name, constants in (("scale", scale), ("shift", shift)):
            if isinstance(constants, nn.Parameter):
                self.register_parameter(name, constants)
            else:
                self.register_buffer(name, constants)
        self.scale: Tensor | None
        self.shift: Tensor | None

    def forward(self, inputs: Tensor) -> Tensor:
        """Return scale * `inputs` + shift, (B, ...)."""
        scaled = inputs if self.scale is None else inputs * self.scale
        return scaled if self.shift is None else scaled + self.shift


class Permute(nn.Module):
    """Bring dimensions into another order, as `Tensor.permute` does; the batch stays first.

    Args:
        order: of the input's dimensions, the batch's 0 first.

    Raises:
        ValueError: unless it starts with 0 and holds every dimension once.
    """

    __constants__ = ("order",)

    def __init__(self, order: Sequence[int]) -> None:
        super().__init__()
        self.order = tuple(order)
        if self.order[:1] != (0,) or sorted(self.order) != list(range(len(self.order))):
            raise ValueError(f"Expected `order` to hold 0 first and every dimension once, got {list(order)}.")

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `inputs`, (B, ...), with their dimensions in that order."""
        return inputs.permute(self.order)

    def extra_repr(self) -> str:
        """Return the order."""
        return f"order={self.order}"
