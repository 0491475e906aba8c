"""Public names say what they are, what they take and what they raise."""

from __future__ import annotations

import ast
import enum
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import pytest

PACKAGES = (
    "lipcert",
    "lipcert.nn",
    "lipcert.bounds",
    "lipcert.certificates",
    "lipcert.losses",
    "lipcert.data",
)
SECTIONS = ("Args:", "Attributes:")
ELSEWHERE = "as in `"
"""Says whose arguments these are."""


def _public() -> Iterator[tuple[str, Any]]:
    """Yield the public names of the packages, and the public methods of their classes."""
    seen: set[int] = set()
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in module.__all__:
            found = getattr(module, name)
            if not (inspect.isclass(found) or inspect.isroutine(found)) or id(found) in seen:
                continue
            seen.add(id(found))
            yield f"{package}.{name}", found
            if inspect.isclass(found):
                for key, value in vars(found).items():
                    value = property(value.func) if isinstance(value, cached_property) else value
                    if not key.startswith("_") and (inspect.isroutine(value) or isinstance(value, property)):
                        yield f"{package}.{name}.{key}", getattr(value, "__func__", value)


NAMES = dict(_public())


def _function(found: Any) -> Callable[..., Any] | None:
    """Return what is called: a function, or what makes an instance of a class."""
    if isinstance(found, property):
        return found.fget
    if not inspect.isclass(found):
        return found
    makers = [vars(found)[name] for name in ("__init__", "__post_init__") if name in vars(found)]
    own = [each for each in makers if each.__code__.co_filename == inspect.getfile(found)]  # none of dataclass's making
    return own[0] if own else None


def _raises(function: Callable[..., Any]) -> bool:
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return any(isinstance(node, ast.Raise) and node.exc is not None for node in ast.walk(tree))


def _parameters(found: Any) -> list[str]:
    if isinstance(found, property) or (inspect.isclass(found) and issubclass(found, enum.Enum | Exception)):
        return []
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = [each for each in inspect.signature(found).parameters.values() if each.kind not in variadic]
    return [each.name for each in parameters if each.name not in ("self", "cls") and each.name[0] != "_"]


def test_there_are_public_names() -> None:
    assert len(NAMES) > 100
    assert {"lipcert.certify", "lipcert.nn.ClippedReLU.forward", "lipcert.bounds.analyze"} <= NAMES.keys()


@pytest.mark.parametrize("name", NAMES)
def test_public_names_are_documented(name: str) -> None:
    found = NAMES[name]
    text = found.__doc__ or ""
    assert re.match(r".+?[.:](\s|$)", text, re.DOTALL), f"{name} has no docstring that begins with a sentence"
    parameters = _parameters(found)
    if ELSEWHERE not in text:
        missing = [each for each in parameters if not re.search(rf"\b{each}\b", text)]
        assert not missing, f"The docstring of {name} does not mention {missing}"
        method = name.rpartition(".")[0] in NAMES
        if len(parameters) > 1 and not method:
            assert any(each in text for each in SECTIONS), f"{name} takes several arguments: give a section Args"
    function = _function(found)
    if function is not None and _raises(function):
        assert "Raises:" in text, f"{name} raises, and does not say so"
