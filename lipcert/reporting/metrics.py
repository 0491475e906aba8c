"""`metrics.csv` as curves over epochs; whatever in it cannot be read is left out and told."""

import csv
import math
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from lipcert.system.errors import reason_of

NAME = "metrics.csv"

UNREADABLE = "cannot be read and is left out of the curves."
NOT_FINITE = "holds NaN or infinity; those points are missing in the curves."

SHOWN = 3
"""Most lines that a sentence names."""


@dataclass(frozen=True)
class Series:
    """One quantity over epochs."""

    epochs: tuple[int, ...] = ()
    values: tuple[float, ...] = ()

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
        return 1 + max((each.epochs[-1] for each in self.series.values()), default=-1)

    def get(self, key: str) -> Series:
        """Return a quantity over epochs, empty where it was not logged."""
        return self.series.get(key, Series())

    def by_layer(self, group: str) -> dict[str, Series]:
        """Return `group`/LAYER by layer, in the order of the network: `lipschitz` or `varying`."""
        names = [key.partition("/")[2] for key in self.series if re.match(rf"{group}/\d", key)]
        return {name: self.series[f"{group}/{name}"] for name in sorted(names, key=_natural)}


def _natural(name: str) -> list[int | str]:
    """Return a key that sorts "10" behind "9": words and numbers in turn."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def read_metrics(path: Path) -> Metrics:
    """Return the curves of a table; a file that is missing has none, which is a problem to tell."""
    try:
        header, *lines = list(csv.reader(path.read_text(encoding="utf-8").splitlines())) or [[]]
        if "epoch" not in header or len(set(header)) < len(header):
            raise ValueError("no header with `epoch`")
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError)
        what = "is missing" if missing else f"cannot be read ({reason_of(error)})"
        return Metrics(problems=(f"{NAME} {what}: there are no curves over epochs.",))
    found: dict[str, dict[int, float]] = defaultdict(dict)
    left_out: dict[str, list[int]] = defaultdict(list)
    for number, cells in enumerate(lines, start=2):
        try:
            row = dict(zip(header, cells, strict=True))
            epoch = int(row["epoch"])
            values = {key: float(cell) for key, cell in row.items() if cell and key not in ("epoch", "step")}
        except ValueError:
            left_out[UNREADABLE].append(number)
            continue
        finite = {key: value for key, value in values.items() if math.isfinite(value)}
        for key, value in finite.items():
            found[key][epoch] = value
        if len(finite) < len(values):
            left_out[NOT_FINITE].append(number)
    return Metrics(
        {key: Series(*map(tuple, zip(*sorted(values.items()), strict=True))) for key, values in found.items()},
        tuple(f"{NAME}: {_places(numbers)} {what}" for what, numbers in left_out.items()),
    )


def _places(numbers: list[int]) -> str:
    more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
    return f"line {', '.join(map(str, numbers[:SHOWN]))}{more}"
