"""A run as its files tell it: results, configuration, curves, certificates, measurement, and what is wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeGuard

from lipcert.records.measurement import Measurement
from lipcert.reporting.metrics import Metrics

ELSEWHERE = {
    "data": "data.name",
    "model": "model.name",
    "activation": "model.activation",
    "method": "method._target_",
    "bound": "bound.name",
}
"""Where the configuration has what results say by one word."""


class State(StrEnum):
    """How far a run came."""

    COMPLETE = "complete"
    UNFINISHED = "unfinished"
    FAILED = "failed"
    NO_RUN = "no run"


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class Certified:
    """One epsilon of a record of certificates: counts of images, accuracies as fractions."""

    record: str
    epsilon: float
    images: int
    clean: float
    certified: float
    failure_probability: float


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        folder: where it lies; name: unique in a report.
        state: how far it came.
        results: of `results.json`; empty unless it is complete.
        settings: of its configuration, by dotted key, without what does not tell runs apart.
        data_root: folder of its data, where it was named.
        epochs: that were asked for, where that is known.
        metrics: curves over epochs.
        certificates: of its records.
        measurement: what `lipcert.measure` left, if anything.
        problems: a sentence for everything that is missing or damaged.
    """

    folder: Path
    name: str
    state: State
    results: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    data_root: str | None = None
    epochs: int | None = None
    metrics: Metrics = field(default_factory=Metrics)
    certificates: tuple[Certified, ...] = ()
    measurement: Measurement | None = None
    problems: tuple[str, ...] = ()

    def number(self, key: str) -> float | None:
        """Return a finite number of the results, None where there is none."""
        value = self.results.get(key)
        return float(value) if _is_number(value) else None

    def word(self, key: str) -> str:
        """Return a word of the results, else of the configuration."""
        value = self.results.get(key, self.settings.get(ELSEWHERE.get(key, key)))
        if key == "method" and key not in self.results and value is not None:
            value = str(value).rpartition(".")[2].lower()  # of its class
        return "?" if value is None else str(value)

    @property
    def certified_by_bound(self) -> dict[str, float]:
        """Certified accuracy by bound, as fractions."""
        return self._numbers("certified_accuracy_by_bound")

    @property
    def varying(self) -> dict[str, float]:
        """Mean fraction of varying neurons by layer."""
        return self._numbers("varying_fraction")

    def _numbers(self, key: str) -> dict[str, float]:
        found = self.results.get(key)
        pairs = found.items() if isinstance(found, dict) else ()
        return {str(name): float(value) for name, value in pairs if _is_number(value)}

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show of it but sentences."""
        shown = (self.results, self.metrics.series, self.certificates, self.measurement)
        return not any(shown)
