"""Settings by dotted key, such as `data.root`, and which of them say where a run takes place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

NOT_COMPARED = (
    "callbacks",
    "logger",
    "plugins",
    "report",
    "resume",
    "data.on_device",
    "data.root",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.log_every_n_steps",
    "trainer.num_nodes",
    "trainer.strategy",
)
"""Where a run takes place and what it shows, not what it computes: two starts of one job may differ in these."""


def is_within(key: str, groups: Iterable[str]) -> bool:
    """Whether a dotted key is one of some groups, or inside one."""
    return any(key == each or key.startswith(f"{each}.") for each in groups)


def by_dotted_key(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested dictionaries by dotted key."""
    if not isinstance(value, dict):
        return {prefix: value}
    found = (by_dotted_key(each, f"{prefix}.{name}".strip(".")) for name, each in value.items())
    return {key: leaf for leaves in found for key, leaf in leaves.items()}
