"""What is refused, and why: layers that may compute something else than their type says."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.nn.modules import module as module_state
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from lipcert.graph.activations import MAKERS
from lipcert.graph.errors import UnsupportedLayerError
from lipcert.graph.layers import operator
from lipcert.nn import AlmostOrthogonal, Residual

CONTAINERS = (nn.Sequential, Residual)
"""Layers that are made of layers."""

INERT = {"__init__", "__module__", "__doc__", "__qualname__", "__annotations__", "__parameters__", "__orig_bases__"}
INERT |= {"__firstlineno__", "__static_attributes__"}  # since Python 3.13
"""What a subclass may define without changing what its layer computes."""

PLAIN = frozenset(vars(nn.Module()))
"""What every layer holds."""


def supported_types() -> tuple[type[nn.Module], ...]:
    """Return the classes of layers that have bounds."""
    affine = (kind for kind in operator.registry if kind is not object)
    return (*CONTAINERS, *affine, *MAKERS)


def unsupported(layer: nn.Module, name: str) -> UnsupportedLayerError:
    """Return the error for a layer of a class without bounds."""
    names = ", ".join(sorted({kind.__name__ for kind in supported_types()}))
    return UnsupportedLayerError(
        f"Layer {name or 'model'!r} is a {type(layer).__name__}, which has no bound. Supported: {names}."
    )


def parametrizations(layer: nn.Module) -> list[str]:
    """Return the names of the parameters that a parametrization computes."""
    registered = layer._modules.get("parametrizations")
    return list(registered) if is_parametrized(layer) and isinstance(registered, nn.ModuleDict) else []


def _parametrized_by_torch(layer: nn.Module) -> bool:
    """Return whether the layer's class is the one that `torch.nn.utils.parametrize` makes, with nothing added."""
    names = set(parametrizations(layer))
    return bool(names) and all(
        key in INERT | {"__getstate__", "__deepcopy__", "__slotnames__"}
        or (key in names and isinstance(value, property))
        for key, value in vars(type(layer)).items()
    )


def _repeats_itself(layer: nn.Module) -> bool:
    """Return whether every parametrization of the layer is known to yield the same weight at each use."""
    computed = [layer.parametrizations[name] for name in parametrizations(layer)]  # type: ignore[index]
    return all(
        type(steps) is ParametrizationList and all(type(step) is AlmostOrthogonal for step in steps)
        for steps in computed
    )


def refuse_inplace(layer: Residual, name: str) -> None:
    """Refuse a residual block in which an activation works in place.

    Raises:
        UnsupportedLayerError: naming the block.
    """
    if any(getattr(module, "inplace", False) for module in layer.modules()):
        raise UnsupportedLayerError(
            f"Layer {name!r}: an activation inside a Residual works in place and may overwrite what the "
            "shortcut reads; build it with inplace=False."
        )


def refuse_altered(layers: Iterable[tuple[str, nn.Module]]) -> None:
    """Refuse the first layer, of (name, layer), that may compute something else than its type says.

    Raises:
        UnsupportedLayerError: for a forward hook, a method of its own in a subclass or instance, or a
            parametrization in train mode (it may change the weight at each use), other than `AlmostOrthogonal`.
    """
    supported = frozenset(supported_types())
    for name, layer in layers:
        _refuse_altered(layer, name, supported)


def _refuse_altered(layer: nn.Module, name: str, supported: frozenset[type[nn.Module]]) -> None:
    place = f"Layer {name or 'model'!r} ({type(layer).__name__})"
    if layer._forward_hooks or layer._forward_pre_hooks:
        raise UnsupportedLayerError(f"{place} has a forward hook, which a bound cannot follow; remove it.")
    if module_state._global_forward_hooks or module_state._global_forward_pre_hooks:
        raise UnsupportedLayerError("A global forward hook is registered, which a bound cannot follow; remove it.")
    if layer._compiled_call_impl is not None:
        raise UnsupportedLayerError(f"{place} was compiled; certify the module as it was before `compile()`.")
    parametrized = _parametrized_by_torch(layer)
    if parametrized and not _repeats_itself(layer) and any(part.training for part in layer.modules()):
        raise UnsupportedLayerError(f"{place} has a parametrization in train mode; call model.eval() first.")
    own_class, *rest = type(layer).__mro__
    classes = rest if parametrized else [own_class, *rest]
    owner = next((cls for cls in classes if cls in supported), None)
    if owner is None:
        return  # refused by name where a bound is looked for
    altered = [key for cls in classes[: classes.index(owner)] for key in vars(cls) if key not in INERT]
    own = [key for key in vars(layer) if key not in PLAIN]
    altered += [key for key in own if key.startswith("__") or callable(getattr(type(layer), key, None))]
    if altered:
        raise UnsupportedLayerError(
            f"{place} has a `{altered[0]}` of its own, so the rule of {owner.__name__} need not hold for it."
        )
