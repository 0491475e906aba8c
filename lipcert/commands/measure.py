"""The Hydra application behind `python -m lipcert.measure` and `lipcert-measure`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lipcert.commands.application import application

if TYPE_CHECKING:
    from omegaconf import DictConfig


@application("measure", "Stopped; nothing was written.")
def main(config: DictConfig) -> float:
    """Run one job and return the certified accuracy at epsilon by the tightest bound."""
    from lipcert.system.configuration import refuse_unknown

    refuse_unknown(config)
    from lipcert.jobs.measure import run

    return run(config)
