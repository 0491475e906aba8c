"""`python -m lipcert.train`: train a certifiably robust classifier, then certify its test set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import hydra

from lipcert.commands import run_command
from lipcert.config import config_folder, register

if TYPE_CHECKING:
    from omegaconf import DictConfig

register()


@hydra.main(version_base="1.3", config_path=config_folder(), config_name="train")
def train(config: DictConfig) -> float:
    """Run one job and return its certified accuracy."""
    register()  # a launcher's processes know no resolvers
    from lipcert.training.isolated import needs_isolation, run_isolated
    from lipcert.training.run import run
    from lipcert.training.sweep import is_job_of_sweep, run_job

    start = run_isolated if needs_isolation(config) else run
    return run_job(start, config) if is_job_of_sweep() else run(config)


def main() -> None:
    """Entry point of `lipcert-train`."""
    run_command(train, "train")


if __name__ == "__main__":
    main()
