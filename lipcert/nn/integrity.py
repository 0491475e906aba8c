"""Whether a layer computes what its type says; where it may not, it is refused by name.

Compared are the methods that a layer is run, copied and read by, and the functions of `torch.nn.functional` that they
name: those of torch with torch's files, others with what they were when they were first seen, lipcert's own at import.
What cannot be seen: replaced functions that those call in turn, other defaults or globals of a function, replaced
kernels, an installed torch whose files were changed, code that runs between a check and the execution.
"""

import sys
from abc import ABC
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cache
from types import BuiltinFunctionType, CodeType, NoneType
from typing import Generic

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.nn.modules import module as module_state
from torch.nn.utils import parametrizations as torch_parametrizations
from torch.nn.utils.parametrize import ParametrizationList

from lipcert.nn.activations import Abs, ClippedMaxMin, ClippedReLU, MaxMin
from lipcert.nn.almost_orthogonal import AlmostOrthogonal
from lipcert.nn.blocks import LinearResidual, Normalize, Residual
from lipcert.nn.channels import ChannelPad, GroupSort2, HalvesToPairs, PairsToHalves
from lipcert.nn.householder import Householder
from lipcert.nn.imported import ElementwiseAffine, Permute
from lipcert.nn.layer_graph import LayerGraph, Sum
from lipcert.nn.orthogonal import Orthogonal


class UnsupportedLayerError(NotImplementedError):
    """A layer whose output region cannot be bounded soundly, named with its place in the model."""


OWN = (
    *(Abs, AlmostOrthogonal, ChannelPad, ClippedMaxMin, ClippedReLU, ElementwiseAffine, GroupSort2, HalvesToPairs),
    *(Householder, LayerGraph, LinearResidual, MaxMin, Normalize, Orthogonal, PairsToHalves, Permute, Residual, Sum),
)
"""The layers of lipcert."""

ROOTS = ("torch.nn.", "lipcert.nn.", "torchvision.transforms.")
"""Modules whose layers are what their types say; those of other modules may have a `forward` of their own."""

REGISTERED: set[type[nn.Module]] = set()
"""Layers of others with a row in a table of bounds, which `register_affine` and `register_activation` add."""

IN_EITHER_MODE = (AlmostOrthogonal, LinearResidual, Orthogonal)

REPEATING = (
    *IN_EITHER_MODE,
    torch_parametrizations._Orthogonal,
    torch_parametrizations._SpectralNorm,
    torch_parametrizations._WeightNorm,
)
"""Parametrizations that yield the same weight at each use: lipcert's in either mode, torch's in eval mode."""

PARTS = frozenset({nn.ModuleDict, ParametrizationList, *REPEATING})
"""What a parametrized layer keeps its parametrizations in."""

INERT = {"__init__", "__module__", "__doc__", "__qualname__", "__annotations__", "__parameters__", "__orig_bases__"}
INERT |= {"__firstlineno__", "__static_attributes__", "__annotate_func__", "__abstractmethods__", "_abc_impl"}
"""What a subclass may define without changing what its layer computes."""

HARMLESS = (ABC, Generic, object)
"""Classes that a subclass may have among its bases."""

PLAIN = frozenset(vars(nn.Module()))
"""What every layer holds."""

NUMBERS = (Tensor, nn.Parameter, FakeTensor)
"""Types of weights; the last has shapes alone, with which a step can be traced and nothing is certified."""

HOLDERS = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks")
"""Dicts that a layer is read from and run by."""

FIXED = frozenset({bool, int, float, str, tuple, NoneType})
SIMPLE = ("builtins", "numpy", "torch")
"""Types whose values cannot change their mind, where parts of tuples cannot, and modules of further ones."""

UNREADABLE: dict[str, Callable[[Tensor], bool]] = {
    "a wrapper of a transform of torch.func": lambda tensor: (
        torch._C._functorch.is_functorch_wrapped_tensor(tensor) or torch._is_functional_tensor(tensor)
    ),
    "on the meta device, without numbers": lambda tensor: tensor.is_meta,
    "nested": lambda tensor: tensor.is_nested,
    "sparse, or in another layout of its own": lambda tensor: tensor.layout is not torch.strided,
    "quantized": lambda tensor: tensor.is_quantized,
    "complex": lambda tensor: tensor.is_complex(),
    "a zero without memory": lambda tensor: tensor._is_zerotensor(),
}
"""Tensors that are no real numbers in memory."""

METHODS = (
    *("__call__", "_wrapped_call_impl", "_call_impl", "forward", "_conv_forward", "_check_input_dim", "__iter__"),
    *("__getattr__", "__getattribute__", "__deepcopy__", "__copy__", "__reduce__", "__reduce_ex__", "__getstate__"),
    *("__setstate__", "_apply", "_named_members", "named_modules", "state_dict"),
)
"""Methods that a layer is run, read and copied by."""

ALIASES = {"Module.__call__": "Module._wrapped_call_impl", "Module.forward": "_forward_unimplemented"}
"""Where `nn.Module` takes what it assigns to names without a definition from."""

COUNTING, COUNTED = "torch._dynamo.mutation_guard", "install_generation_tagging_init.<locals>.patched_setstate"
"""Where torch.compile replaces `nn.Module.__setstate__`, for all modules, by a function around torch's own."""

KERNELS = (
    *("avg_pool2d", "conv2d", "conv_transpose2d", "gelu", "linear", "pixel_shuffle", "pixel_unshuffle", "prelu"),
    "softplus",
)
"""Functions of `torch.nn.functional` that are not written in Python."""

FUNCTIONAL = {"torchvision.transforms.transforms": "torchvision.transforms.functional"}
"""Modules whose `F` is another than `torch.nn.functional`."""


def has_own_forward(model: nn.Module) -> bool:
    """Return whether a network, or a module in it, is of a class that no base of it explains."""
    return any(not is_layer(type(module)) for module in model.modules())


def is_layer(kind: type[nn.Module]) -> bool:
    """Return whether modules of a class are layers or containers by their type, or by that of a base."""
    bases = (cls for cls in kind.__mro__ if issubclass(cls, nn.Module) and cls is not nn.Module)
    return any(cls in REGISTERED or cls.__module__.startswith(ROOTS) for cls in bases)


def refuse_altered(layers: Iterable[tuple[str, nn.Module]], kinds: Collection[type[nn.Module]]) -> None:
    """Refuse the first layer, of (name, layer), that may compute something else than its type says.

    Args:
        layers: with their names in the model.
        kinds: the types whose rule is known; a layer of none of them is left to whoever looks for its rule.

    Raises:
        UnsupportedLayerError: for a forward hook; a method that is not the type's own, of a subclass, another base, the
            instance or a patched class; weights that are no plain tensors; a parametrization that is not known to
            yield the same weight at each use.
    """
    if module_state._global_forward_hooks or module_state._global_forward_pre_hooks:
        raise UnsupportedLayerError("A global forward hook is registered, which a bound cannot follow; remove it.")
    sound: set[type] = set()
    for name, layer in layers:
        _refuse_altered(layer, name, kinds, sound)


def _refuse_altered(layer: nn.Module, name: str, kinds: Collection[type[nn.Module]], sound: set[type]) -> None:
    kind = type(layer)
    place = f"Layer {name or 'model'!r} ({kind.__name__})"
    if isinstance(layer, torch.jit.ScriptModule):
        raise UnsupportedLayerError(f"{place} was compiled by torch.jit; certify the module that it was made of.")
    if layer._forward_hooks or layer._forward_pre_hooks:
        raise UnsupportedLayerError(f"{place} has a forward hook, which a bound cannot follow; remove it.")
    if layer._compiled_call_impl is not None:
        raise UnsupportedLayerError(f"{place} was compiled; certify the module as it was before `compile()`.")
    if parametrized(layer):
        refuse_parametrizations(layer, name)
        kind = kind.__mro__[1]
    owner = next((cls for cls in kind.__mro__ if cls in kinds), None)
    if owner is None:
        return  # refused by name where its rule is looked for
    for cls in kind.__mro__:
        if cls not in sound:
            _refuse_class(cls, owner, place)
            sound.add(cls)
    _refuse_instance(layer, place)


def _refuse_class(cls: type, owner: type, place: str) -> None:
    """Refuse one of a layer's classes if it adds to the `owner` of its rule, or is one of the owner's and patched."""
    if cls in HARMLESS:
        return
    wrong = "so its rule need not hold"
    if cls in owner.__mro__:
        patched = _patched(cls)
        if patched is not None:
            raise UnsupportedLayerError(f"{place}: `{patched}` was replaced, {wrong}; undo that.")
    else:
        added = next((key for key in vars(cls) if key not in INERT), None)
        if added is not None:
            raise UnsupportedLayerError(f"{place} has a `{added}` of its own, {wrong}.")


def _refuse_instance(layer: nn.Module, place: str) -> None:
    """Refuse attributes that hide methods or weights, and weights that are no plain tensors."""
    held, kind = {**layer._parameters, **layer._buffers}, type(layer)
    attributes = vars(layer)
    for holder in HOLDERS:
        found = attributes[holder]
        if type(found) is not dict and (type(found) is not OrderedDict or vars(found)):
            raise UnsupportedLayerError(f"{place} keeps its `{holder}` in no plain dict, so its rule need not hold.")
    for key in attributes.keys() - PLAIN:
        if key.startswith("__") or key in held or key in layer._modules or callable(getattr(kind, key, None)):
            raise UnsupportedLayerError(f"{place} has a `{key}` of its own, so its rule need not hold.")
    for key in _constants(kind):
        value = attributes.get(key)
        if (type(value) is tuple or type(value) not in FIXED) and not _fixed(value):
            raise UnsupportedLayerError(f"{place} has a `{key}` that is no plain value, so its rule need not hold.")
    for key, tensor in held.items():
        if hasattr(kind, key):
            raise UnsupportedLayerError(f"{place}: its class has a `{key}`, which hides that of the layer.")
        if tensor is not None and type(tensor) not in NUMBERS:
            raise UnsupportedLayerError(
                f"{place} has a `{key}` of type {type(tensor).__name__}, which may compute otherwise than numbers do; "
                f"make it a plain tensor, for example by layer.{key}.detach().as_subclass(torch.Tensor)."
            )
        for own in vars(tensor) if type(tensor) in NUMBERS[:2] else ():
            if hasattr(Tensor, own):
                raise UnsupportedLayerError(f"{place} has a `{key}` with a `{own}` of its own; delete that.")


def _constants(kind: type[nn.Module]) -> tuple[str, ...]:
    """Return the attributes that decide what layers of a class compute, beside parameters and buffers."""
    transform = ("mean", "std", "inplace") if kind.__module__.startswith("torchvision.transforms.") else ()
    return ("training", *getattr(kind, "__constants__", ()), *transform)


def _fixed(value: object) -> bool:
    """Return whether a value, or a tuple with all its parts, is one that cannot change its mind."""
    kinds = {type(value), *map(type, value if isinstance(value, tuple | list) else ())}
    return kinds <= FIXED or all(kind.__module__ in SIMPLE for kind in kinds)


def refuse_other_copy(model: nn.Module, copied: nn.Module, kinds: Collection[type[nn.Module]]) -> None:
    """Refuse a float64 copy of a model in which a layer of `kinds` computes something else.

    Raises:
        UnsupportedLayerError: naming a layer whose tensors, attributes or children are not those of the original.
    """
    copies, known = dict(copied.named_modules()), tuple(kinds)
    for name, layer in model.named_modules():
        if isinstance(layer, known) and not _same(layer, copies.get(name)):
            raise UnsupportedLayerError(
                f"Layer {name or 'model'!r}: its copy is another layer, as copying was altered; undo that."
            )


def _same(layer: nn.Module, other: nn.Module | None) -> bool:
    """Return whether another layer has the type, attributes, names of children and, in float64, tensors of this one."""
    if other is None or type(layer) is not type(other):
        return False
    held, theirs = ({**each._parameters, **each._buffers} for each in (layer, other))
    return (
        all(vars(layer).get(key) == vars(other).get(key) for key in _constants(type(layer)))
        and layer._modules.keys() == other._modules.keys()
        and held.keys() == theirs.keys()
        and all(_equal(tensor, theirs[key]) for key, tensor in held.items())
    )


def _equal(tensor: Tensor | None, other: Tensor | None) -> bool:
    if tensor is None or other is None:
        return tensor is other
    return torch.equal(tensor.double() if tensor.is_floating_point() else tensor, other)


def refuse_unreadable(model: nn.Module) -> None:
    """Refuse weights that are no real numbers, one a place in memory.

    Raises:
        UnsupportedLayerError: naming the parameter or buffer.
    """
    for name, layer in model.named_modules():
        for key, tensor in {**layer._parameters, **layer._buffers}.items():
            for unlike, holds in UNREADABLE.items():
                if tensor is not None and holds(tensor):
                    full = f"{name}.{key}" if name else key
                    raise UnsupportedLayerError(f"`{full}` is {unlike}; make it a plain tensor of real numbers.")


def parametrized(layer: nn.Module) -> list[str]:
    """Return the names of the tensors that parametrizations compute, none for a class that torch did not make."""
    held: object = layer._modules
    registered = held.get("parametrizations") if isinstance(held, dict) else None
    if not isinstance(registered, nn.ModuleDict):
        return []
    names, made = list(registered), vars(type(layer))
    plain = INERT | {"__getstate__", "__deepcopy__", "__slotnames__"}
    torch_made = all(key in plain or (key in names and _made_by_torch(value)) for key, value in made.items())
    return names if torch_made and all(name in made for name in names) else []


def _made_by_torch(value: object) -> bool:
    """Return whether a class attribute is the property that `register_parametrization` makes."""
    code = getattr(value.fget, "__code__", None) if isinstance(value, property) else None
    return code is not None and code == _written("torch.nn.utils.parametrize").get(code.co_qualname)


def refuse_parametrized(model: nn.Module) -> None:
    """Refuse a model with a layer whose weights a parametrization computes at each use.

    Raises:
        UnsupportedLayerError: naming the layer, and what to use in its place.
    """
    for name, layer in model.named_modules():
        if computed := parametrized(layer):
            raise UnsupportedLayerError(
                f"Layer {name or 'model'!r} ({type(layer).__name__}) computes its `{computed[0]}` at each use, with "
                "roundings that no bound covers; certify and use lipcert.nn.folded(model), which stores it."
            )


def refuse_parametrizations(layer: nn.Module, name: str) -> None:
    """Refuse a parametrized layer unless its parametrizations are known to yield the same weight at each use.

    Raises:
        UnsupportedLayerError: naming the layer and the parametrization.
    """
    place = f"Layer {name or 'model'!r} ({type(layer).__name__})"
    registered = layer._modules["parametrizations"]
    assert isinstance(registered, nn.ModuleDict)
    for key, steps in registered.items():
        assert isinstance(steps, nn.ModuleList)
        for step in steps:
            if type(step) not in REPEATING:
                raise UnsupportedLayerError(
                    f"{place} computes its `{key}` by a {type(step).__name__}, which is not known to yield the same at "
                    "each use; keep the one it yields now, by "
                    f"torch.nn.utils.parametrize.remove_parametrizations(layer, {key!r})."
                )
            if type(step) not in IN_EITHER_MODE and (step.training or layer.training):
                raise UnsupportedLayerError(f"{place} has a parametrization in train mode; call model.eval() first.")
    refuse_altered(((f"{name}.parametrizations.{part}", each) for part, each in registered.named_modules()), PARTS)


def _patched(cls: type) -> str | None:
    """Return the name of a method of the class, or of a function that one calls, that was replaced; None for none."""
    expected, present = _methods(cls), vars(cls)
    for name in METHODS:
        if not _expected(present.get(name), name, expected):
            return f"{cls.__name__}.{name}"
    called, functional = _functions(cls), getattr(sys.modules[cls.__module__], "F", F)
    for name in called:
        if not _expected(getattr(functional, name), name, called):
            return f"{FUNCTIONAL.get(cls.__module__, 'torch.nn.functional')}.{name}"
    return None


def _expected(function: object, name: str, codes: dict[str, object]) -> bool:
    """Return whether the function is the one of that name; its code object is then known at a glance."""
    found = _code(function)
    if found is not codes[name]:
        if found != codes[name]:
            return name == "__setstate__" and COUNTING in sys.modules and found == _written(COUNTING).get(COUNTED)
        codes[name] = found
    return True


def _code(function: object) -> object:
    """Return a function's code; the type of one that has none, which is not written in Python."""
    return None if function is None else getattr(function, "__code__", type(function))


@cache
def _methods(cls: type) -> dict[str, object]:
    """Return the code of each of `METHODS`, None for those that the class lacks: as written, else as first seen."""
    written = _written(cls.__module__) if cls.__module__.startswith("torch.") else {}
    if not written:
        return {name: _code(vars(cls).get(name)) for name in METHODS}
    places = {name: f"{cls.__qualname__}.{name}" for name in METHODS}
    return {name: written.get(ALIASES.get(place, place)) for name, place in places.items()}


@cache
def _functions(cls: type) -> dict[str, object]:
    """Return the code, as written, of the functions of `torch.nn.functional` that the class's methods name."""
    names = {name for code in _methods(cls).values() if isinstance(code, CodeType) for name in code.co_names}
    codes: dict[str, object] = {name: BuiltinFunctionType for name in names if name in KERNELS}
    written = _written(FUNCTIONAL.get(cls.__module__, "torch.nn.functional"))
    if "max_pool2d" in names:
        codes["max_pool2d"] = _written("torch._jit_internal")["boolean_dispatch.<locals>.fn"]
    return codes | {name: written[name] for name in names if name in written}


@cache
def _written(module: str) -> dict[str, CodeType]:
    """Return the code of every function in a module's file, by qualified name; nothing where the file is not there."""
    spec = sys.modules[module].__spec__
    get_code = getattr(getattr(spec, "loader", None), "get_code", None)
    code = None if get_code is None else get_code(module)
    return {} if code is None else {each.co_qualname: each for each in _nested(code)}


def _nested(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _nested(constant)


for _kind in OWN:
    _methods(_kind)  # as they are now, before anyone else can have seen them
