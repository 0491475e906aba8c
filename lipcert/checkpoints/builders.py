"""Networks from the name of what builds them: a function or a class of lipcert or of anybody, and its arguments."""

import inspect
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from lipcert.nn import build
from lipcert.system.configuration import BUILT_IN
from lipcert.system.plugins import import_from_here

NOT_GIVEN = ("_target_", "builder")
"""Settings of a network that are no arguments: they name the builder."""

Builder = str | Callable[..., nn.Module]
"""`package.module:function`, found as `python -m` finds modules, or a dotted path, as Hydra's; or what these name."""


def builder_of(model: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return what the settings of the group `model` name as a builder, and its arguments.

    Those that are null are left out, and `name` is an argument of a published architecture alone.

    Raises:
        ValueError: unless exactly one builder is named.
    """
    named = [str(model[key]) for key in NOT_GIVEN if model.get(key) is not None]
    if len(named) != 1:
        raise ValueError(
            "Expected model.builder=package.module:function or model._target_=package.module.Class, "
            f"got {' and '.join(named) or 'neither'}."
        )
    left_out = NOT_GIVEN if named[0] == BUILT_IN else (*NOT_GIVEN, "name")
    return named[0], {key: value for key, value in model.items() if value is not None and key not in left_out}


def built(builder: Builder, arguments: Mapping[str, Any], image_shape: Sequence[int], num_classes: int) -> nn.Module:
    """Build a network; its builder is given `image_shape` and `num_classes` where it has arguments of these names.

    Args:
        builder: what to call.
        arguments: by name; those with a `_target_` are made first, as Hydra does.
        image_shape: (channels, height, width) of the images.
        num_classes: number of logits.

    Raises:
        ValueError: for a builder that is not found, raises, or returns no module; as of `lipcert.nn.build` for that.
    """
    data = {"image_shape": tuple(image_shape), "num_classes": num_classes}
    function = located(builder)
    if function is build:
        return build(**{**data, **arguments})
    try:
        takes = inspect.signature(function).parameters
    except (TypeError, ValueError):  # it is not written in Python
        takes = {}  # type: ignore[assignment]
    try:
        network = function(**{key: value for key, value in data.items() if key in takes}, **_made(arguments))
    except Exception as error:  # somebody's code may end in any of them
        if isinstance(error, ValueError) and function.__module__.startswith("lipcert."):
            raise
        raise ValueError(f"builder={_name(builder)} raised {_described(error)}.") from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"Expected builder={_name(builder)} to return an nn.Module, got {type(network).__name__}.")
    return network


def located(builder: Builder) -> Callable[..., nn.Module]:
    """Return what a name names, imported from the working directory or the environment.

    Raises:
        ValueError: for a name of another form, that is not found, or is nothing to call.
    """
    if not isinstance(builder, str):
        return builder
    if builder == BUILT_IN:
        return build
    module_name, _, function_name = builder.partition(":") if ":" in builder else builder.rpartition(".")
    if not (module_name and function_name):
        raise ValueError(f"Expected builder=package.module:function, got {builder!r}.")
    try:
        found = getattr(import_from_here(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"builder={builder} was not found: {' '.join(str(error).split())}.") from error
    except Exception as error:
        raise ValueError(f"builder={builder} cannot be imported: {_described(error)}.") from error
    if not callable(found):
        raise ValueError(f"Expected builder={builder} to be a function, got {type(found).__name__}.")
    function: Callable[..., nn.Module] = found
    return function


def _made(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments, those that Hydra's targets are made of as objects."""
    if not any(isinstance(value, dict | list) for value in arguments.values()):
        return dict(arguments)
    from hydra.utils import instantiate

    return {
        key: instantiate(value, _convert_="all") if isinstance(value, dict | list) else value
        for key, value in arguments.items()
    }


def _name(builder: Builder) -> str:
    return builder if isinstance(builder, str) else getattr(builder, "__qualname__", repr(builder))


def _described(error: BaseException) -> str:
    """Return an error of somebody's code with the place it comes from, on one line."""
    *_, last = traceback.extract_tb(error.__traceback__)
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said} ({os.path.basename(last.filename)}, line {last.lineno})"
