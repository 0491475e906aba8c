"""Names of the folders of sweeps and of their jobs: the same whenever the same is asked for."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from hydra.core.override_parser.types import Quote, QuotedString

from lipcert.system.settings import NOT_COMPARED, is_within

LONGEST = 120
"""Characters of a job's name; file systems allow 255 bytes."""


def sweep_folder(sweep: str | None, scale: str, time: str) -> str:
    """Return a named sweep's folder, NAME or NAME-SCALE; any other sweep has the time it began."""
    if sweep is None:
        return time
    return sweep if scale == "full" else f"{sweep}-{scale}"


def split_override(override: str) -> tuple[str, str]:
    """Return key and value of an override: `data.root` and `/tmp` of `+data.root=/tmp`."""
    key, _, value = override.partition("=")
    return key.lstrip("+~").partition("@")[0], value


def quoted(value: str) -> str:
    """Return a value as Hydra's grammar of overrides takes it."""
    return value if re.fullmatch(r"[\w./-]+", value) else QuotedString(value, Quote.single).with_quotes()


def names_a_job(override: str) -> bool:
    """Whether an override tells jobs apart; `sweep` and `scale` stand in the name of the sweep's folder."""
    key, _ = split_override(override)
    return not is_within(key, ("sweep", "scale", *NOT_COMPARED))


def job_folder(overrides: Sequence[str]) -> str:
    """Return a job's folder name: its overrides in alphabetical order.

    Where characters had to be replaced or left out, eight digits of a digest keep different jobs apart.
    """
    whole = ",".join(sorted(filter(names_a_job, overrides))) or "job"
    safe = re.sub(r"[^A-Za-z0-9._=,+-]", "_", whole)[:LONGEST]
    if safe == whole:
        return whole
    return f"{safe[: LONGEST - 9]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"
