"""The job of `lipcert.benchmark`: costs of a training step and a certificate, or how they grow with sizes."""

from __future__ import annotations

from omegaconf import DictConfig

from lipcert.system.configuration import refuse_unknown
from lipcert.training import benchmark


def run(config: DictConfig) -> None:
    """Measure every row and write `benchmark.json`; with `growth=[...]`, how costs grow with sizes."""
    refuse_unknown(config)
    benchmark.run(config)
