"""The job of `lipcert.train`: one training run, or one of a sweep, and the page about it."""

import contextlib
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lipcert.training.processes import is_first_process
from lipcert.training.run import run as train
from lipcert.training.sweep.run import is_job_of_sweep, needs_isolation, run_isolated, run_job


def run(config: DictConfig) -> float:
    """Train, evaluate and, with `report`, write the page; return the certified accuracy."""
    if is_job_of_sweep():
        return run_job(run_isolated if needs_isolation(config) else train, config)
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        certified = train(config)
    except BaseException:
        with contextlib.suppress(OSError):  # something was written into it
            folder.rmdir()
        raise
    if config.report and is_first_process():
        from lipcert.reporting.report import write_report

        write_report([folder], folder)
    return certified
