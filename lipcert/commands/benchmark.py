"""`python -m lipcert.benchmark`: what a training step and a certificate cost, as ratios in one run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lipcert.commands.application import application

if TYPE_CHECKING:
    from omegaconf import DictConfig


@application("benchmark")
def main(config: DictConfig) -> None:
    """Measure every row and write `benchmark.json`; with `growth=[...]`, how costs grow with sizes."""
    from lipcert.system.configuration import refuse_unknown

    refuse_unknown(config)
    if config.growth:
        from lipcert.training.growth import run
    else:
        from lipcert.training.benchmark import run
    run(config)
