"""One rule a layer type: how the layer maps a region to a region.

Here are those of affine layers, which extend the region's linear maps, and of containers. An activation closes the
maps (`lipcert.bounds.activation_rules`): it knows which of its outputs vary, asks for masked norms, multiplies the
Lipschitz constants and opens the region anew at its output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import singledispatch
from typing import Any

from torch import nn
from torch.nn.modules import module as module_state
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from lipcert.bounds.closing import Walk
from lipcert.bounds.economy import pays
from lipcert.bounds.errors import UnsupportedLayerError
from lipcert.bounds.linear_map import identity_map
from lipcert.bounds.operators import Operator, Shape, operator
from lipcert.bounds.region import Region, add, affine
from lipcert.bounds.rounding import after_affine
from lipcert.nn import AlmostOrthogonal, Normalize, Residual


@singledispatch
def apply_rule(layer: nn.Module, region: Region, walk: Walk, name: str) -> Region:
    """Return the region behind `layer`; register a rule for a type with `@apply_rule.register`.

    Args:
        layer: of the model.
        region: before it.
        walk: what the walk carries along; `close` asks it for norms.
        name: of the layer in the model.

    Raises:
        UnsupportedLayerError: naming the layer and its place, for a type without a rule.
    """
    supported = ", ".join(sorted({rule.__name__ for rule in apply_rule.registry if rule is not object}))
    raise UnsupportedLayerError(
        f"Layer {name or 'model'!r} is a {type(layer).__name__}, which has no bound. Supported: {supported}."
    )


INERT = {"__init__", "__module__", "__doc__", "__qualname__", "__annotations__", "__parameters__", "__orig_bases__"}
INERT |= {"__firstlineno__", "__static_attributes__"}  # since Python 3.13
"""What a subclass may define without changing what its layer computes."""


PLAIN = frozenset(vars(nn.Module()))
"""What every layer holds."""


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


def refuse_altered(layer: nn.Module, name: str) -> None:
    """Refuse a layer that may compute something else than its type says.

    Raises:
        UnsupportedLayerError: for a forward hook, a method of its own in a subclass or instance, or a
            parametrization in train mode (it may change the weight at each use), other than `AlmostOrthogonal`.
    """
    place = f"Layer {name or 'model'!r} ({type(layer).__name__})"
    if any((layer._forward_hooks, layer._forward_pre_hooks)):
        raise UnsupportedLayerError(f"{place} has a forward hook, which a bound cannot follow; remove it.")
    if any((module_state._global_forward_hooks, module_state._global_forward_pre_hooks)):
        raise UnsupportedLayerError("A global forward hook is registered, which a bound cannot follow; remove it.")
    if layer._compiled_call_impl is not None:
        raise UnsupportedLayerError(f"{place} was compiled; certify the module as it was before `compile()`.")
    parametrized = _parametrized_by_torch(layer)
    if parametrized and not _repeats_itself(layer) and any(part.training for part in layer.modules()):
        raise UnsupportedLayerError(f"{place} has a parametrization in train mode; call model.eval() first.")
    own_class, *rest = type(layer).__mro__
    classes = rest if parametrized else [own_class, *rest]
    owner = next((cls for cls in classes if cls is not object and cls in apply_rule.registry), None)
    if owner is None:
        return  # `apply_rule` refuses it by name
    altered = [key for cls in classes[: classes.index(owner)] for key in vars(cls) if key not in INERT]
    own = [key for key in vars(layer) if key not in PLAIN]
    altered += [key for key in own if key.startswith("__") or callable(getattr(type(layer), key, None))]
    if altered:
        raise UnsupportedLayerError(
            f"{place} has a `{altered[0]}` of its own, so the rule of {owner.__name__} need not hold for it."
        )


def walk_layer(layer: nn.Module, region: Region, walk: Walk, name: str) -> Region:
    """Check a layer, then apply its rule; errors name the layer."""
    refuse_altered(layer, name)
    return apply_rule(layer, region, walk, name)


def joined_name(name: str, child: str) -> str:
    return f"{name}.{child}" if name else child


@apply_rule.register
def _(layer: nn.Sequential, region: Region, walk: Walk, name: str) -> Region:
    for child_name, child in layer._modules.items():  # named_children() would skip a layer used a second time
        if child is not None:
            region = walk_layer(child, region, walk, joined_name(name, child_name))
    return region


@apply_rule.register
def _(layer: Residual, region: Region, walk: Walk, name: str) -> Region:
    if any(getattr(module, "inplace", False) for module in layer.modules()):
        raise UnsupportedLayerError(
            f"Layer {name!r}: an activation inside a Residual works in place and may overwrite what the "
            "shortcut reads; build it with inplace=False."
        )
    branch = walk_layer(layer.branch, region, walk, joined_name(name, "branch"))
    shortcut = walk_layer(layer.shortcut, region, walk, joined_name(name, "shortcut"))
    if branch.shape != shortcut.shape:
        raise UnsupportedLayerError(
            f"Layer {name!r}: branch and shortcut yield shapes {branch.shape} and {shortcut.shape}; they must agree."
        )
    total = add(branch, shortcut)
    if walk.arithmetic is None or branch.rounding is None or shortcut.rounding is None:
        return total
    size = branch.size() + branch.rounding.entries + shortcut.size() + shortcut.rounding.entries
    rounding = branch.rounding.plus(shortcut.rounding, size, walk.arithmetic)
    return total.rounded(rounding, walk.arithmetic.analysis)


@apply_rule.register(nn.Linear)
@apply_rule.register(nn.Conv2d)
@apply_rule.register(nn.Flatten)
@apply_rule.register(nn.Identity)
@apply_rule.register(nn.Dropout)
@apply_rule.register(nn.Dropout1d)
@apply_rule.register(nn.Dropout2d)
@apply_rule.register(nn.AvgPool2d)
@apply_rule.register(nn.BatchNorm1d)
@apply_rule.register(nn.BatchNorm2d)
@apply_rule.register(Normalize)
def apply_affine(layer: nn.Module, region: Region, walk: Walk, name: str) -> Region:
    """Return the region behind an affine layer, which is all that its `operator` says."""
    try:
        affine_map = operator(layer, region.shape)
    except UnsupportedLayerError as error:
        raise UnsupportedLayerError(f"Layer {name!r}: {error}") from None
    economy = walk.economy  # the walk itself, which the region ends in, would make a cycle that outlives its step
    moved = affine(region, affine_map, lambda gain: pays(economy, f"box {name}", gain), economy is None)
    if walk.arithmetic is None or region.rounding is None:
        return moved
    norm = None
    if affine_map.products()[0] and not bool((region.rounding.length == 0).all()):
        norm = walk.norms.whole(f"{name}..layer", identity_map(region.shape).after(affine_map), region.center)
    rounding = after_affine(region.rounding, affine_map, region.reach(), norm, walk.arithmetic)
    return replace(moved.rounded(rounding, walk.arithmetic.analysis), last=affine_map)


def register_affine(kind: type[nn.Module], make: Callable[[Any, Shape], Operator]) -> None:
    """Add an affine layer of your own to the layers that have bounds.

    Args:
        kind: the layer's class.
        make: takes the layer and its input's shape without the batch, returns its operator. Everything that is
            certified rests on what the operator says; docs/extending/layer.md shows one, and how to test it.
    """
    operator.register(kind, make)
    apply_rule.register(kind, apply_affine)
