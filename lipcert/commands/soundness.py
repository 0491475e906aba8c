"""The Hydra application behind `python -m lipcert.soundness` and `lipcert-soundness`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lipcert.commands.application import application
from lipcert.commands.arguments import with_lists

if TYPE_CHECKING:
    from omegaconf import DictConfig


@application("soundness", "Stopped; nothing was written.", with_lists)
def main(config: DictConfig) -> float:
    """Run one job and return how much room the attacks left above the certified margins."""
    from lipcert.system.configuration import refuse_unknown

    refuse_unknown(config)
    from lipcert.jobs.soundness import run

    return run(config)
