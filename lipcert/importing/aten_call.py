"""An operation of torch as it is executed: its arguments by the names of its schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lipcert.importing import operations as ops
from lipcert.importing.drawing import Drawing, Shape, Value, unsupported


@dataclass(frozen=True)
class Call:
    """An operation as it is executed.

    Attributes:
        drawing: that what it is is appended to.
        node: its name.
        shape: of what it yields, without the batch.
        arguments: by the names of its schema, defaults among them; values, constants and numbers.
    """

    drawing: Drawing
    node: str
    shape: Shape
    arguments: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def operand(self, name: str) -> ops.Operand:
        """Return an argument as a value or a constant tensor, numbers in the network's precision."""
        found = self[name]
        return found if isinstance(found, Value | Tensor) else self.drawing.like.new_tensor(float(found))

    def layer(self, layer: nn.Module) -> Value:
        """Append a layer that is applied to the first argument."""
        first = next(iter(self.arguments.values()))
        if not isinstance(first, Value):
            raise self.refusal("its first argument does not depend on the image.")
        return self.drawing.apply(self.node, layer, first)

    def refusal(self, reason: str) -> Exception:
        """Return the refusal of this node."""
        return unsupported(self.node, "operation", reason)
