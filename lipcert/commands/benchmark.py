"""`python -m lipcert.benchmark`: what a training step and a certificate cost, as ratios in one run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import hydra

from lipcert.commands.application import run_command
from lipcert.system.configuration import config_folder, refuse_unknown, register

if TYPE_CHECKING:
    from omegaconf import DictConfig

register()


@hydra.main(version_base="1.3", config_path=config_folder(), config_name="benchmark")
def benchmark(config: DictConfig) -> None:
    """Measure every row and write `benchmark.json`; with `growth=[...]`, how costs grow with sizes."""
    refuse_unknown(config)
    if config.growth:
        from lipcert.training.growth import run
    else:
        from lipcert.training.benchmark import run
    run(config)


def main() -> None:
    """Entry point of `lipcert-benchmark`."""
    run_command(benchmark, "benchmark")
