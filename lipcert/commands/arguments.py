"""What a user types and Hydra would take for something else."""

from __future__ import annotations

import re
from collections.abc import Sequence

LISTS = ("epsilon", "stages")
"""Keys whose values may be written with commas."""

_PLAIN = r"[^\[\](){}'\"]"
_PLAIN_LIST = re.compile(rf"({'|'.join(LISTS)})={_PLAIN}*,{_PLAIN}*|stages=(?!null$)[\w-]+")


def is_sweep(arguments: Sequence[str]) -> bool:
    """Return whether Hydra is asked for one job a value."""
    asked = any(each == "-m" or (len(each) > 3 and "--multirun".startswith(each)) for each in arguments)
    return asked or "hydra.mode=MULTIRUN" in arguments


def with_lists(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with `epsilon=0.1,0.25` as `epsilon=[0.1,0.25]` and the like, unless commas mean a sweep."""
    if is_sweep(arguments):
        return list(arguments)
    return [_as_list(each) for each in arguments]


def _as_list(argument: str) -> str:
    key, _, values = argument.partition("=")
    return f"{key}=[{values}]" if _PLAIN_LIST.fullmatch(argument) else argument
