"""`metrics.csv` as curves over epochs; whatever in it cannot be read is left out and told."""

from __future__ import annotations

import csv
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from lipcert.system.errors import reason_of

NAME = "metrics.csv"
SHOWN = 3
"""Most lines that a sentence names."""


@dataclass(frozen=True)
class Series:
    """One quantity over epochs."""

    epochs: tuple[int, ...]
    values: tuple[float, ...]

    def __bool__(self) -> bool:
        return bool(self.values)


@dataclass(frozen=True)
class Metrics:
    """What was logged while training, and a sentence for everything that could not be read."""

    series: dict[str, Series] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def epochs(self) -> int:
        """How many epochs left a row."""
        return 1 + max((each.epochs[-1] for each in self.series.values() if each), default=-1)

    def get(self, key: str) -> Series:
        """Return a quantity over epochs, empty where it was not logged."""
        return self.series.get(key, Series((), ()))

    def by_layer(self, group: str) -> dict[str, Series]:
        """Return `group`/LAYER by layer, in the order of the network: `lipschitz` or `varying`."""
        names = [key.partition("/")[2] for key in self.series if key.startswith(f"{group}/")]
        layers = [name for name in names if name[:1].isdigit()]
        return {name: self.series[f"{group}/{name}"] for name in sorted(layers, key=_natural)}


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Return a key that sorts "10" behind "9"."""
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", name)]


def read_metrics(path: Path) -> Metrics:
    """Return the curves of a table; a file that is missing has none, which is a problem to tell."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Metrics(problems=(f"{NAME} is missing: there are no curves over epochs.",))
    except (OSError, UnicodeDecodeError) as error:
        return Metrics(problems=(f"{NAME} cannot be read ({reason_of(error)}): there are no curves over epochs.",))
    header, *lines = list(csv.reader(text.splitlines())) or [[]]
    if "epoch" not in header or len(set(header)) < len(header):
        return Metrics(problems=(f"{NAME} has no header with `epoch`: there are no curves over epochs.",))
    found: dict[str, dict[int, float]] = {}
    unread: dict[str, list[int]] = {}
    for number, cells in enumerate(lines, start=2):
        wrong = _take(dict(zip(header, cells, strict=False)) if len(cells) == len(header) else {}, found)
        if wrong is not None:
            unread.setdefault(wrong, []).append(number)
    return Metrics(
        {key: Series(*map(tuple, zip(*sorted(values.items()), strict=True))) for key, values in found.items()},
        tuple(f"{NAME}: {_places(numbers)} {what}" for what, numbers in unread.items()),
    )


def _take(row: dict[str, str], found: dict[str, dict[int, float]]) -> str | None:
    """Put a row's numbers into `found`; return what is wrong with it."""
    try:
        epoch = int(row["epoch"])
        values = {key: float(cell) for key, cell in row.items() if cell and key not in ("epoch", "step")}
    except (KeyError, ValueError):
        return "cannot be read and is left out of the curves."
    finite = {key: value for key, value in values.items() if math.isfinite(value)}
    for key, value in finite.items():
        found.setdefault(key, {})[epoch] = value
    return None if len(finite) == len(values) else "holds NaN or infinity; those points are missing in the curves."


def _places(numbers: list[int]) -> str:
    more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
    return f"line {', '.join(map(str, numbers[:SHOWN]))}{more}"
