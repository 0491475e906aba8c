"""What would make a GPU wait for the host, noted while it happens; fake CUDA tensors do to see it."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

VALUES_ASKED_FOR = {"aten::_local_scalar_dense", "aten::equal", "aten::nonzero", "aten::masked_select"}


class Watch(TorchDispatchMode):
    """Notes every operation that asks for a value, and every copy between devices that the host has to wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[str] = []

    def __torch_dispatch__(
        self, operation: Any, types: Any, arguments: tuple[Any, ...] = (), keywords: dict[str, Any] | None = None
    ) -> Any:
        keywords = keywords or {}
        result = operation(*arguments, **keywords)
        name = operation.name().split(".")[0]
        copied = name == "aten::_to_copy" and arguments[0].device != result.device
        if name in VALUES_ASKED_FOR or (copied and not keywords.get("non_blocking")):
            self.noted.append(name)
        return result
