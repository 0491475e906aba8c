"""A virtual GPU: a device of torch without hardware. It holds real values, refuses to meet tensors of the CPU as CUDA
does, and notes what would make a host wait for it.

Importing this module registers the device `virtual` with torch for the rest of the process: tests that need it run in
a process of their own.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, library, nn
from torch.utils import _pytree as pytree
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

from lipcert.nn import integrity

aten = torch.ops.aten

ASKING = {"nonzero", "equal", "masked_select", "_linalg_eigh", "_linalg_svd", "unique_dim", "_unique2"}
"""Operations of which the host needs the result, or whose kernels of CUDA ask for one."""

INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}

BY_NAME = (
    *("empty.memory_format", "empty_strided", "_copy_from", "_copy_from_and_resize", "_local_scalar_dense"),
    *("as_strided", "view", "_reshape_alias"),
)
"""Operations that a fallback does not reach."""

LEFT_TO_TORCH = {*BY_NAME, "detach", "alias", "_to_copy", "convolution", "convolution_backward"}
LEFT_TO_TORCH |= {"convolution_overrideable", "convolution_backward_overrideable"}

VIEWS = {
    *("view", "_reshape_alias", "as_strided", "expand", "t", "transpose", "unsqueeze", "squeeze", "slice", "select"),
    *("detach", "alias", "permute", "_unsafe_view", "unbind", "split", "split_with_sizes", "diagonal", "lift_fresh"),
    *("empty", "empty_strided", "empty_like", "new_empty"),
}
"""Operations that compute nothing."""

waits: Counter[str] = Counter()
"""What a host would have waited for, by operation: values asked for, and copies that are not `non_blocking`."""

kernels: Counter[str] = Counter()
"""Operations that computed something on the device."""

touched: Counter[str] = Counter()
"""Bytes that they read and wrote, by operation: each entry of a tensor once."""

_values: dict[int, Tensor] = {}


class VirtualTensor(Tensor):
    """A tensor of the virtual GPU; its values lie in a tensor of the CPU, kept by its storage's number."""

    @staticmethod
    def __new__(cls, values: Tensor) -> VirtualTensor:
        created = torch._C._acc.create_empty_tensor(tuple(values.shape), values.dtype)
        created.__class__ = cls
        return created  # type: ignore[no-any-return]

    def __init__(self, values: Tensor) -> None:
        _values[torch.Tensor.untyped_storage(self)._cdata] = values


VirtualTensor.__module__ = "torch"


def _is_virtual(value: object) -> bool:
    return isinstance(value, Tensor) and value.device.type == "virtual"


def _value(value: Any) -> Any:
    return _values[torch.Tensor.untyped_storage(value)._cdata] if _is_virtual(value) else value


def placed(values: Tensor) -> Tensor:
    """Return a copy of a tensor on the virtual GPU."""
    return VirtualTensor(values.detach().clone())


def place(module: nn.Module) -> None:
    """Move a module's parameters and buffers onto the virtual GPU; they stay the same objects, as with `cuda()`."""
    for parameter in module.parameters():
        torch.utils.swap_tensors(parameter, nn.Parameter(placed(parameter)))
    for buffer in module.buffers():
        torch.utils.swap_tensors(buffer, placed(buffer))


def _copied(source: Tensor, target: Tensor, non_blocking: bool) -> Tensor:
    if _is_virtual(source) != _is_virtual(target) and not (non_blocking and _is_virtual(target)):
        waits["copy"] += 1
    _value(target).copy_(_value(source))
    return target


def _execute(operation: Any, *given: Any, **named: Any) -> Any:
    """Execute an operation on the values, as a kernel of the device would.

    Raises:
        RuntimeError: where tensors of both devices meet.
    """
    name = operation.name().split("::")[1].split(".")[0]
    tensors = [each for each in pytree.tree_leaves((given, named)) if isinstance(each, Tensor)]
    if name in ("_copy_from", "_copy_from_and_resize"):
        return _copied(given[0], given[1], len(given) > 2 and bool(given[2]))
    if name == "_local_scalar_dense":
        waits["value"] += 1
        return _value(given[0]).item()
    _note(name, given)
    virtual = [each for each in tensors if _is_virtual(each)]
    others = [each for each in tensors if not _is_virtual(each) and each.dim() > 0]
    if virtual and others and name not in INDEXING:
        raise RuntimeError(f"{name} on tensors of two devices: {[(t.device.type, tuple(t.shape)) for t in tensors]}.")
    device = named.get("device")
    stays = bool(virtual) or (device is not None and torch.device(device).type == "virtual")
    if name == "_to_copy" and device is not None and torch.device(device).type == "cpu":
        waits["copy"] += 1
        stays = False
    named = {key: value for key, value in named.items() if key != "pin_memory"}
    if device is not None:
        named["device"] = torch.device("cpu")
    values, named_values = pytree.tree_map(_value, (given, named))
    if name in ("view", "_reshape_alias"):
        result = values[0].reshape(values[1])
    elif name == "empty_strided":
        result = torch.empty_strided(values[0], values[1], dtype=named.get("dtype"))
    else:
        result = operation(*values, **named_values)
    if name not in VIEWS:
        tensors = [each for each in pytree.tree_leaves((values, named_values, result)) if isinstance(each, Tensor)]
        touched[name] += sum(_size(each) for each in tensors)
    if operation._schema.is_mutable:
        return _written(operation, given, named)
    return pytree.tree_map_only(Tensor, VirtualTensor, result) if stays else result


def _size(tensor: Tensor) -> int:
    """Return a tensor's bytes; entries that it repeats count once."""
    sizes = (size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride != 0)
    return math.prod(sizes) * tensor.element_size()


def _note(name: str, given: Sequence[Any]) -> None:
    kernels[name] += name not in VIEWS
    if name in ASKING:
        waits[name] += 1
    if name in INDEXING:
        for index in given[1]:
            if isinstance(index, Tensor) and (index.dtype == torch.bool or not _is_virtual(index)):
                waits[name] += 1


def _written(operation: Any, given: Sequence[Any], named: dict[str, Any]) -> Any:
    """Return the arguments that an operation has written into, as its schema orders them."""
    arguments = operation._schema.arguments
    bound = {**dict(zip((each.name for each in arguments), given, strict=False)), **named}
    names = [each.name for each in arguments if each.alias_info and each.alias_info.is_write and each.name in bound]
    written = pytree.tree_leaves([bound[name] for name in names])
    returns = len(operation._schema.returns)
    return None if returns == 0 else written[0] if returns == 1 else tuple(written[:returns])


def _convolution(inputs: Any, weight: Any, bias: Any, *rest: Any) -> Any:
    return _execute(aten.convolution.default, inputs, weight, bias, *rest)


def _convolution_backward(outputs: Any, inputs: Any, weight: Any, *rest: Any) -> Any:
    *settings, (wants_input, wants_weight, wants_bias) = rest
    masks = [wants_input, wants_weight, False]
    found = _execute(aten.convolution_backward.default, outputs, inputs, weight, None, *settings, masks)
    return *found[:2], _execute(aten.sum.dim_IntList, outputs, [0, 2, 3]) if wants_bias else None


class _Backend(_DummyBackendModule):  # type: ignore[misc]
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


def _overload(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(aten, packet), overload or "default")


def _register() -> list[library.Library]:
    """Register the device; return the libraries, which hold as long as they live."""
    _setup_privateuseone_for_python_backend("virtual", _Backend())
    fallback, computed = library.Library("_", "IMPL"), library.Library("aten", "IMPL")
    fallback.fallback(_execute, "PrivateUse1")

    def register(name: str) -> None:
        operation = _overload(name)
        computed.impl(name, lambda *given, **named: _execute(operation, *given, **named), "PrivateUse1")

    for name in BY_NAME:
        register(name)
    computed.impl("convolution_overrideable", _convolution, "PrivateUse1")
    computed.impl("convolution_backward_overrideable", _convolution_backward, "PrivateUse1")
    explicit = ("CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional")
    has: Callable[[str, str], bool] = torch._C._dispatch_has_kernel_for_dispatch_key
    for full in torch._C._dispatch_get_all_op_names():
        name = full.removeprefix("aten::")
        if name == full or name in LEFT_TO_TORCH or not any(has(full, key) for key in explicit):
            continue  # of another library, or torch decomposes it, or the fallback reaches it
        if not has(full, "CompositeImplicitAutograd") and not _overload(name)._schema.is_mutable:
            register(name)
    return [fallback, computed]


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    _libraries = _register()
integrity.NUMBERS = (*integrity.NUMBERS, VirtualTensor)
