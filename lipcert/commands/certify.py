"""The Hydra application behind `python -m lipcert.certify` and `lipcert-certify`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lipcert.commands.application import application
from lipcert.commands.arguments import with_lists

if TYPE_CHECKING:
    from omegaconf import DictConfig


@application("certify", "Stopped. The same command goes on behind the last finished batch.", with_lists)
def main(config: DictConfig) -> float:
    """Run one job and return the certified accuracy at the largest epsilon."""
    from lipcert.system.configuration import refuse_unknown

    refuse_unknown(config)
    from lipcert.jobs.certify import run

    return run(config)
