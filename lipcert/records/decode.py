"""JSON values to frozen dataclasses, by their annotations; anything missing, foreign or of another type is refused."""

from __future__ import annotations

import types
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


def decode(kind: type[T], value: object, place: str) -> T:
    """Return `value` as an object of dataclass `kind`; `place` names it in errors.

    Raises:
        ValueError: naming the place that is missing, unknown or of another type.
    """
    return _decode(kind, value, place)


def _decode(kind: Any, value: object, place: str) -> Any:
    if kind is Any:
        return value
    if is_dataclass(kind):
        return _object(kind, value, place)
    if get_origin(kind) is tuple:
        (item, _) = get_args(kind)
        return tuple(_decode(item, each, f"{place}[{i}]") for i, each in enumerate(_typed(list, value, place)))
    if get_origin(kind) is dict:
        (_, item) = get_args(kind)
        return {key: _decode(item, each, f"{place}.{key}") for key, each in _typed(dict, value, place).items()}
    if kind is float and type(value) is int:
        return float(value)
    return _typed(kind, value, place)


def _typed(kind: type[Any] | types.GenericAlias, value: object, place: str) -> Any:
    if type(value) is not kind:
        names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "an integer"}
        expected = names.get(kind, "a number") if isinstance(kind, type) else str(kind)
        raise ValueError(f"expected {expected} in {place!r}, got {value!r}")
    return value


def _object(kind: Any, value: object, place: str) -> Any:
    content = _typed(dict, value, place)
    hints, names = get_type_hints(kind), [field.name for field in fields(kind)]
    missing = [name for name in names if name not in content]
    unknown = [name for name in content if name not in names]
    if missing or unknown:
        wrong = ", ".join([*(f"no {name!r}" for name in missing), *(f"an unknown {name!r}" for name in unknown)])
        raise ValueError(f"{place} has {wrong}")
    return kind(**{name: _decode(hints[name], content[name], f"{place}.{name}") for name in names})
