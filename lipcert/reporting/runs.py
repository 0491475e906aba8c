"""A run as its files tell it: results, configuration, curves, certificates, measurement, and what is wrong."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

from lipcert.records import Record
from lipcert.records.measurement import Measurement
from lipcert.system.overrides import NOT_COMPARED, is_within

ELSEWHERE = {
    "data": "data.name",
    "model": "model.name",
    "activation": "model.activation",
    "method": "method._target_",
    "bound": "bound.name",
}
"""Where the configuration has what every `results.json` says by one word."""


class State(StrEnum):
    """How far a run came."""

    COMPLETE = "complete"
    UNFINISHED = "unfinished"
    FAILED = "failed"
    NO_RUN = "no run"


Curve = dict[int, float]
"""One quantity by epoch, the first epoch first."""


def varying_by_layer(metrics: Mapping[str, Curve]) -> dict[str, Curve]:
    """Return the proportions of varying neurons by layer, in the order of the network."""
    names = [key.removeprefix("varying/") for key in metrics if re.match(r"varying/\d", key)]
    names.sort(key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])
    return {name: metrics[f"varying/{name}"] for name in names}


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        folder: where it lies; name: unique in a report.
        state: how far it came.
        results: of `results.json`; empty unless it is complete.
        configuration: its leaves by dotted key, as written, interpolations included.
        metrics: what was logged while training, by key.
        certificates: its records, by folder.
        measurement: what `lipcert.measure` left, if anything.
        problems: a sentence for everything that is missing or damaged.
    """

    folder: Path
    name: str
    state: State
    results: dict[str, Any] = field(default_factory=dict)
    configuration: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Curve] = field(default_factory=dict)
    certificates: dict[str, Record] = field(default_factory=dict)
    measurement: Measurement | None = None
    problems: tuple[str, ...] = ()

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The configuration without what does not tell runs apart."""
        return {key: value for key, value in self.configuration.items() if not is_within(key, ("seed", *NOT_COMPARED))}

    def number(self, key: str) -> float | None:
        """Return a number of the results, None where there is none."""
        return _numbers(self.results).get(key)

    def numbers(self, key: str) -> dict[str, float]:
        """Return the numbers that lie by name under a key of the results, such as `varying_fraction`."""
        return _numbers(self.results.get(key))

    def word(self, key: str) -> str:
        """Return a word of the results, else of the configuration."""
        value = self.results.get(key, self.settings.get(ELSEWHERE.get(key, key)))
        if key == "method" and key not in self.results and value is not None:
            value = str(value).rpartition(".")[2].lower()  # of its class
        return "?" if value is None else str(value)

    @property
    def measure_settings(self) -> dict[str, str]:
        """Settings of `lipcert.measure`: the checkpoint that was evaluated, else any other; empty without one."""
        wanted = str(self.settings.get("evaluation.checkpoint", "last"))
        found = sorted((self.folder / "checkpoints").glob("*.ckpt"), key=lambda path: (path.stem != wanted, path.name))
        root = self.configuration.get("data.root")
        settings = {"checkpoint": str(found[0]), "data_root": root} if found else {}
        return {key: value for key, value in settings.items() if value is not None}

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show of it but sentences."""
        return not (self.results or self.metrics or self.certificates or self.measurement)


def _numbers(value: Any) -> dict[str, float]:
    pairs = value.items() if isinstance(value, dict) else ()
    return {name: float(each) for name, each in pairs if isinstance(each, int | float)}
