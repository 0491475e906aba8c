"""Text of files to typed values and back: JSON to frozen dataclasses by their annotations, CSV with a kind a column.

Whatever is missing, foreign or of another type is refused, but that a field which may be None need not be there; every
float comes back exactly.
"""

import csv
import io
import json
import math
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

from lipcert.system.files import read_bytes


def read_object(path: Path, version: int) -> dict[str, Any]:
    """Return what a JSON file holds beside its `format`, which must be `version`.

    Raises:
        OSError: if it cannot be read.
        ValueError: for what is no object of that format, a key that stands twice, NaN and infinity; as `read_bytes`.
    """
    try:
        content = json.loads(read_bytes(path), parse_constant=_no_number, object_pairs_hook=_each_once)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    if not isinstance(content, dict):
        raise ValueError(f"expected an object, got a {type(content).__name__}")
    found = content.pop("format", None)
    if found != version or isinstance(found, bool):
        raise ValueError(f"expected format {version}, got {found!r}; read it with the lipcert that wrote it")
    return content


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"it holds {constant}")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = next(key for key in content if sum(key == other for other, _ in pairs) > 1)
        raise ValueError(f"it holds {twice!r} twice in one object")
    return content


def decode(kind: Any, value: object, place: str) -> Any:
    """Return `value` as a `kind`: a dataclass, tuple, dict or plain type; `place` names it in errors.

    Raises:
        ValueError: naming the place that is missing, unknown or of another type.
    """
    if kind is Any:
        return value
    if isinstance(kind, types.UnionType):  # something or None
        return None if value is None else decode(get_args(kind)[0], value, place)
    if is_dataclass(kind):
        return _object(kind, value, place)
    if get_origin(kind) is tuple:
        (item, _) = get_args(kind)
        return tuple(decode(item, each, f"{place}[{i}]") for i, each in enumerate(_typed(list, value, place)))
    if get_origin(kind) is dict:
        (_, item) = get_args(kind)
        return {key: decode(item, each, f"{place}.{key}") for key, each in _typed(dict, value, place).items()}
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
    hints, names = get_type_hints(kind), [field.name for field in fields(kind)]
    content = dict.fromkeys(name for name in names if isinstance(hints[name], types.UnionType))
    content |= _typed(dict, value, place)
    missing = [name for name in names if name not in content]
    unknown = [name for name in content if name not in names]
    if missing or unknown:
        wrong = ", ".join([*(f"no {name!r}" for name in missing), *(f"an unknown {name!r}" for name in unknown)])
        raise ValueError(f"{place} has {wrong}")
    return kind(**{name: decode(hints[name], content[name], f"{place}.{name}") for name in names})


def to_csv(columns: Iterable[str], lines: Iterable[Sequence[Any]]) -> str:
    """Return CSV text below a header of `columns`; floats by `repr`, truth as 0 or 1."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([int(value) if isinstance(value, bool) else value for value in line] for line in lines)
    return text.getvalue()


def from_csv(text: str, columns: Mapping[str, type]) -> list[list[Any]]:
    """Return the lines of CSV text below its header; `columns`: their kinds by name: int, float, bool or str.

    Raises:
        ValueError: for another header, or naming the line that holds something else; NaN is refused.
    """
    try:
        header, *lines = list(csv.reader(io.StringIO(text, newline=""))) or [[]]
    except csv.Error as error:
        raise ValueError(f"It is no CSV: {error}.") from error
    if header != list(columns):
        raise ValueError(f"Expected the columns {','.join(columns)}, got {','.join(header)}.")
    return [_values(cells, columns, number) for number, cells in enumerate(lines, start=2)]


def _values(cells: list[str], columns: Mapping[str, type], line: int) -> list[Any]:
    if len(cells) != len(columns):
        raise ValueError(f"Expected {len(columns)} values in line {line}, got {len(cells)}.")
    try:
        values = [(_truth if kind is bool else kind)(cell) for cell, kind in zip(cells, columns.values(), strict=True)]
    except ValueError as error:
        raise ValueError(f"Line {line} holds no row: {error}.") from error
    if any(isinstance(value, float) and math.isnan(value) for value in values):
        raise ValueError(f"Line {line} holds a NaN.")
    return values


def _truth(cell: str) -> bool:
    if cell not in ("0", "1"):
        raise ValueError(f"expected 0 or 1, got {cell!r}")
    return cell == "1"
