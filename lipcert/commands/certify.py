"""The Hydra application behind `python -m lipcert.certify` and `lipcert-certify`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import hydra

from lipcert.commands.application import run_command
from lipcert.commands.arguments import with_lists
from lipcert.system.configuration import config_folder, refuse_unknown, register

if TYPE_CHECKING:
    from omegaconf import DictConfig

register()


@hydra.main(version_base="1.3", config_path=config_folder(), config_name="certify")
def certify(config: DictConfig) -> float:
    """Run one job and return the certified accuracy at the largest epsilon."""
    from lipcert.jobs.certify import run

    refuse_unknown(config)
    return run(config)


def main() -> None:
    """Entry point of `lipcert-certify`."""
    sys.argv[1:] = with_lists(sys.argv[1:])
    run_command(certify, "certify", "Stopped. The same command goes on behind the last finished batch.")
