"""The Hydra application behind `python -m lipcert.measure` and `lipcert-measure`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import hydra

from lipcert.commands.application import run_command
from lipcert.system.configuration import config_folder, refuse_unknown, register

if TYPE_CHECKING:
    from omegaconf import DictConfig

register()


@hydra.main(version_base="1.3", config_path=config_folder(), config_name="measure")
def measure(config: DictConfig) -> float:
    """Run one job and return the certified accuracy at epsilon by the tightest bound."""
    from lipcert.jobs.measure import run

    refuse_unknown(config)
    return run(config)


def main() -> None:
    """Entry point of `lipcert-measure`."""
    run_command(measure, "measure", "Stopped; nothing was written.")
