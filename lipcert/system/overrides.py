"""Settings by dotted key, such as `data.root`, the overrides that set them, and the folders that overrides name."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString

NOT_COMPARED = (
    "callbacks",
    "logger",
    "plugins",
    "report",
    "resume",
    "data.extra.path",
    "data.on_device",
    "data.root",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.log_every_n_steps",
    "trainer.num_nodes",
    "trainer.strategy",
)
"""Where a run takes place and what it shows, not what it computes: two starts of one job may differ in these."""

OPEN = ("data.dataset", "data.test_dataset", "data.transforms")
"""Settings whose keys are not known beforehand: arguments of what a `_target_` names."""

LONGEST = 120
"""Characters of a job's name; file systems allow 255 bytes."""


def is_within(key: str, groups: Iterable[str]) -> bool:
    """Whether a dotted key is one of some groups, or inside one."""
    return any(key == each or key.startswith(f"{each}.") for each in groups)


def by_dotted_key(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested dictionaries by dotted key."""
    if not isinstance(value, dict):
        return {prefix: value}
    found = (by_dotted_key(each, f"{prefix}.{name}".strip(".")) for name, each in value.items())
    return {key: leaf for leaves in found for key, leaf in leaves.items()}


def split_override(override: str) -> tuple[str, str]:
    """Return key and value of an override: `data.root` and `/tmp` of `+data.root=/tmp`."""
    key, _, value = override.partition("=")
    return key.lstrip("+~").partition("@")[0], value


def for_hydra(words: Iterable[str]) -> list[str]:
    """Return a command line as Hydra's grammar takes it: settings inside of `OPEN` ones added, paths in quotes.

    Paths are what begins with `~`, which is expanded, and what is there and has a `=` in its name.
    """
    inside, typed = tuple(f"{key}." for key in OPEN), []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and (value.startswith("~/") or ("=" in value and Path(value).exists())):
            word = f"{key}={quoted(str(Path(value).expanduser()))}"
        typed.append(f"++{word}" if word.startswith(inside) else word)
    return typed


def quoted(value: str) -> str:
    """Return a value as Hydra's grammar of overrides takes it."""
    return value if re.fullmatch(r"[\w./-]+", value) else QuotedString(value, Quote.single).with_quotes()


def names_a_job(override: str) -> bool:
    """Whether an override tells jobs apart; `sweep` and `scale` stand in the name of the sweep's folder."""
    return not is_within(split_override(override)[0], ("sweep", "scale", *NOT_COMPARED))


def sweep_folder(sweep: str | None, scale: str, time: str) -> str:
    """Return a named sweep's folder, NAME or NAME-SCALE; any other sweep has the time it began."""
    if sweep is None:
        return time
    return sweep if scale == "full" else f"{sweep}-{scale}"


def job_folder(overrides: Sequence[str]) -> str:
    """Return a job's folder name: its overrides in alphabetical order.

    Where characters had to be replaced or left out, eight digits of a digest keep different jobs apart.
    """
    whole = ",".join(sorted(filter(names_a_job, overrides))) or "job"
    safe = re.sub(r"[^A-Za-z0-9._=,+-]", "_", whole)[:LONGEST]
    if safe == whole:
        return whole
    return f"{safe[: LONGEST - 9]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"
