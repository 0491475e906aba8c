"""`python -m lipcert.train`: train a certifiably robust classifier, then certify its test set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lipcert.commands.application import application

if TYPE_CHECKING:
    from omegaconf import DictConfig


@application("train")
def main(config: DictConfig) -> float:
    """Run one job and return its certified accuracy."""
    from lipcert.system.configuration import register
    from lipcert.training.run import run
    from lipcert.training.sweep.run import is_job_of_sweep, needs_isolation, run_isolated, run_job

    register()  # a launcher's processes know no resolvers
    start = run_isolated if needs_isolation(config) else run
    if is_job_of_sweep():
        return run_job(start, config)
    try:
        certified = run(config)
    except BaseException:
        remove_if_empty()
        raise
    if config.report:
        write_page()
    return certified


def remove_if_empty() -> None:
    """Remove the folder that Hydra has made for a run, where nothing was written into it."""
    import contextlib
    from pathlib import Path

    from hydra.core.hydra_config import HydraConfig

    with contextlib.suppress(OSError):  # where there is something in it
        Path(HydraConfig.get().runtime.output_dir).rmdir()


def write_page() -> None:
    """Write the report of the present run into its folder, from the first process alone."""
    import shlex
    from pathlib import Path

    from hydra.core.hydra_config import HydraConfig

    from lipcert.reporting.writing import write_report
    from lipcert.training.processes import is_first_process

    folder = Path(HydraConfig.get().runtime.output_dir)
    if is_first_process():
        write_report([folder], folder, command=shlex.join(["python", "-m", "lipcert.report", str(folder)]))
