"""A node of ONNX as it is executed: its inputs and attributes, read as its operator means them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lipcert.importing import operations as ops
from lipcert.importing.drawing import Drawing, Value, unsupported
from lipcert.importing.pairs import Extreme


@dataclass(frozen=True)
class Call:
    """A node as it is executed.

    Attributes:
        drawing: that what it is is appended to.
        node: its name; `kind`: its operator.
        inputs: values, constants, None for those left out.
        attributes: by name.
        batch: images in a batch.
    """

    drawing: Drawing
    node: str
    kind: str
    inputs: Sequence[ops.Operand | Extreme | None]
    attributes: Mapping[str, Any]
    batch: int

    @property
    def value(self) -> Value:
        """The first input, which must depend on the image."""
        if not isinstance(self.inputs[0], Value):
            raise self.refusal("its first input does not depend on the image.")
        return self.inputs[0]

    def operand(self, number: int) -> ops.Operand:
        """Return an input that must be there."""
        found = self.inputs[number] if number < len(self.inputs) else None
        if not isinstance(found, Value | Tensor):
            raise self.refusal(f"it has no input {number}.")
        return found

    def constant(self, number: int) -> Tensor | None:
        """Return an input that must not depend on the image; None where it is left out."""
        found = self.inputs[number] if number < len(self.inputs) else None
        if isinstance(found, Value | Extreme):
            raise self.refusal(f"its input {number} depends on the image; only constants are supported there.")
        return found

    def tensor(self, number: int) -> Tensor:
        """Return an input that must be a constant."""
        found = self.constant(number)
        if found is None:
            raise self.refusal(f"it has no input {number}.")
        return found

    def numbers(self, number: int, attribute: str) -> list[int] | None:
        """Return integers that are an input, or an attribute of older versions; None where neither is there."""
        found = self.constant(number)
        return self.attributes.get(attribute) if found is None else [int(each) for each in found.flatten()]

    def layer(self, layer: nn.Module) -> Value:
        """Append a layer that is applied to the first input."""
        return self.drawing.apply(self.node, layer, self.value)

    def refusal(self, reason: str) -> Exception:
        """Return the refusal of this node."""
        return unsupported(self.node, self.kind, reason)

    def padding(self) -> tuple[int, int, int, int]:
        """Return the padding of a window, (left, right, top, bottom).

        Raises:
            UnsupportedLayerError: for one that depends on the size of the image.
        """
        mode = self.attributes.get("auto_pad", b"NOTSET")
        if mode not in (b"NOTSET", b"VALID"):
            raise self.refusal(f"auto_pad={mode.decode()} is not supported; export it with numbers.")
        top, left, bottom, right = self.attributes.get("pads", (0, 0, 0, 0))
        return left, right, top, bottom

    def window(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """Return the kernel, stride and padding of pooling, which must be the same on opposite sides."""
        if len(self.value.shape) != 3:
            raise self.refusal(f"it pools values (B, *{self.value.shape}); only pictures are supported.")
        left, right, top, bottom = self.padding()
        if (left, top) != (right, bottom):
            raise self.refusal("it pads opposite sides differently.")
        (height, width), (down, across) = self.attributes["kernel_shape"], self.attributes.get("strides", (1, 1))
        return (height, width), (down, across), (top, left)
