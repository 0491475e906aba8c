"""The Hydra application behind `python -m lipcert.soundness` and `lipcert-soundness`."""

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


@hydra.main(version_base="1.3", config_path=config_folder(), config_name="soundness")
def soundness(config: DictConfig) -> float:
    """Run one job and return how much room the attacks left above the certified margins."""
    from lipcert.jobs.soundness import run

    refuse_unknown(config)
    return run(config)


def main() -> None:
    """Entry point of `lipcert-soundness`."""
    sys.argv[1:] = with_lists(sys.argv[1:])
    run_command(soundness, "soundness", "Stopped; nothing was written.")
