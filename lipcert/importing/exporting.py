"""What `torch.export` writes down of a forward, and what executing a network changes."""

from __future__ import annotations

import io
import logging
import random
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lipcert.nn import UnsupportedLayerError
from lipcert.system.errors import first_line

TRANSFORMS = "torchvision.transforms."
"""Where layers come from that keep the shape of pictures, and are taken as a whole."""


def exported(model: nn.Module, images: Tensor) -> torch.export.ExportedProgram:
    """Return the forward as a graph of operations.

    Raises:
        UnsupportedLayerError: with the line of the forward that cannot be followed.
    """
    try:
        with warnings.catch_warnings(), _unsaid(), _taken_whole(model):
            warnings.simplefilter("ignore")
            return torch.export.export(model, (images,), strict=False)
    except Exception as error:  # following somebody's code may end in any of them
        raise UnsupportedLayerError(
            f"{_place(model, error)} cannot be followed ({first_line(error)}); a forward must take images "
            f"({', '.join(map(str, ('B', *images.shape[1:])))}), and not branch on pixels nor leave torch."
        ) from error


@contextmanager
def _unsaid() -> Iterator[None]:
    """Leave out what torch logs and prints of a forward that it cannot follow: the error says it."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


@contextmanager
def _taken_whole(model: nn.Module) -> Iterator[None]:
    """Let transforms copy their input: they look at their own numbers, which export takes for pixels."""
    transforms = [each for each in model.modules() if type(each).__module__.startswith(TRANSFORMS)]
    transforms = [each for each in transforms if "forward" not in vars(each)]
    try:
        for each in transforms:
            each.forward = torch.clone
        yield
    finally:
        for each in transforms:
            del each.forward


def _place(model: nn.Module, error: BaseException) -> str:
    """Return the innermost layer of the model that an error came through, with its line."""
    names = {id(module): name for name, module in model.named_modules()}
    found = f"The forward of {type(model).__name__}"
    while error is not None:
        for frame, line in traceback.walk_tb(error.__traceback__):
            own = frame.f_locals.get(next(iter(frame.f_code.co_varnames), ""))  # self, whatever it is called
            owner = names.get(id(own))
            if owner is not None and not frame.f_globals.get("__name__", "").startswith("torch."):
                found = f"Layer {owner or 'model'!r} ({type(own).__name__}), line {line} of {frame.f_code.co_name}"
        error = error.__cause__  # type: ignore[assignment]
    return found


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Refuse a network whose execution changes what it holds, or draws random numbers.

    Raises:
        UnsupportedLayerError: naming the layer and its attribute.
    """
    before, drawn = dict(_state(model)), _random_state()
    try:
        yield
    finally:
        _refuse_changed(model, before, drawn)


def _refuse_changed(model: nn.Module, before: Mapping[tuple[str, str], Any], drawn: tuple[Any, ...]) -> None:
    after = dict(_state(model))
    for key in [*after.keys() - before.keys(), *before.keys()]:
        if key not in before or key not in after or before[key] != after[key]:
            name, attribute = key
            raise UnsupportedLayerError(
                f"Layer {name or 'model'!r} changes its `{attribute}` when it is executed; nothing is proved of a "
                "network that computes something else the next time."
            )
    if _random_state() != drawn:
        raise UnsupportedLayerError(
            f"The forward of {type(model).__name__} draws random numbers; nothing is proved of it."
        )


def _state(model: nn.Module) -> Iterator[tuple[tuple[str, str], Any]]:
    """Yield what every layer holds, by its name and the attribute's, in values that can be compared."""
    for name, module in model.named_modules():
        for key, value in {**vars(module), **module._parameters, **module._buffers}.items():
            yield (name, key), _comparable(value)


def _comparable(value: Any) -> Any:
    if isinstance(value, Tensor):
        return id(value), value._version
    if isinstance(value, list | tuple | set | frozenset):
        return type(value), [_comparable(each) for each in value]
    if isinstance(value, dict):
        return type(value), [(key, _comparable(each)) for key, each in value.items()]
    return value if isinstance(value, int | float | str | bytes) else id(value)


def _random_state() -> tuple[Any, ...]:
    kind, keys, *rest = np.random.get_state()
    return random.getstate(), torch.get_rng_state().numpy().tobytes(), kind, np.asarray(keys).tobytes(), *rest
