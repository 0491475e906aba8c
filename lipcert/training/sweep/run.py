"""One job of a sweep: skipped where it is complete, recorded however it ends, so that the others go on.

A job of several processes is a command line of its own: they must not enter the sweep again.
"""

import contextlib
import gc
import json
import logging
import math
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from lipcert.system.errors import EXPECTED_ERRORS, Interrupted
from lipcert.system.files import write_json, write_text
from lipcert.system.overrides import quoted
from lipcert.training.processes import started_processes
from lipcert.training.resume.starting_point import AUTO, completed
from lipcert.training.sweep.report import COMPLETE, FAILED, RECORDS, SKIPPED, Job

logger = logging.getLogger(__name__)


def is_job_of_sweep() -> bool:
    """Whether the present run is one of several."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


def run_job(run: Callable[[DictConfig], float], config: DictConfig) -> float:
    """Run the present job of a sweep, from where it was cut off, and record how it ended.

    Returns its certified accuracy, NaN if it failed.

    Whatever `run` raises is recorded, with its traceback in `error.txt`; what ends the process passes through.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    config.resume = config.resume or AUTO
    try:
        before = completed(folder, config)
    except ValueError as error:
        return _record(folder, FAILED, error)
    if before is not None:
        _record(folder, SKIPPED)
        return float(before["certified_accuracy"])
    (folder / "error.txt").unlink(missing_ok=True)
    try:
        certified = run(config)
    except Exception as error:
        with contextlib.suppress(OSError):  # the record is still to come
            write_text(folder / "error.txt", traceback.format_exc())
        logger.error("%s", sentence(error))
        return _record(folder, FAILED, error)
    finally:
        gc.collect()  # what a failed job held must not be missing to the next one
    _record(folder, COMPLETE)
    return certified


def sentence(error: Exception) -> str:
    """Return what to say of an error, on one line; a fault of lipcert is called by its type."""
    text = " ".join(" ".join([str(error), *getattr(error, "__notes__", [])]).split())
    return text if isinstance(error, EXPECTED_ERRORS) else f"{type(error).__name__}: {text}"


def _record(folder: Path, state: str, error: Exception | None = None) -> float:
    """Record how the present job ended; return the accuracy of one that has none, NaN."""
    hydra = HydraConfig.get()
    message = None if error is None else sentence(error)
    job = Job(hydra.job.num, list(hydra.overrides.task), folder.name, state, message)
    records = folder.parent / RECORDS / hydra.callbacks["sweep"]["command"]
    records.mkdir(parents=True, exist_ok=True)
    write_json(records / f"{job.number}.json", asdict(job))
    return math.nan


def needs_isolation(config: DictConfig) -> bool:
    """Whether a job of a sweep has processes that Lightning would start with the sweep's own command line.

    Where SLURM started all of them, nothing is left to start.
    """
    several = config.trainer.devices * config.trainer.num_nodes > 1
    return several and is_job_of_sweep() and started_processes() == 1


def job_command(folder: Path, resume: str | None) -> list[str]:
    """Return the command line that runs the present job alone, in `folder`, going on as `resume` says."""
    hydra = HydraConfig.get()
    added = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
    return [
        *(sys.executable, "-m", "lipcert.train"),
        *(argument for path in added for argument in ("--config-dir", path)),
        *("--config-name", str(hydra.job.config_name)),
        *(each for each in hydra.overrides.task if not each.startswith(("resume=", "report="))),
        *([] if resume is None else [f"resume={quoted(resume)}"]),
        *("hydra.mode=RUN", f"hydra.run.dir={quoted(str(folder))}"),
    ]


def run_isolated(config: DictConfig) -> float:
    """Run the present job of a sweep in a process of its own; return its certified accuracy.

    Raises:
        ChildProcessError: when it fails; its own message stands on standard error.
    """
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir).absolute()
    with subprocess.Popen(job_command(folder, config.resume), cwd=hydra.runtime.cwd) as process:
        try:
            code = process.wait()
        except BaseException:  # a signal: it ends the job, too
            process.terminate()
            raise
    if code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        raise Interrupted(code - 128, "Start the same sweep again to go on.")
    if code:
        raise ChildProcessError(
            f"The job in {folder} ended with exit code {code}; its own message is above. "
            f"Overrides: {' '.join(hydra.overrides.task)}."
        )
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return float(results.get("certified_accuracy", math.nan))
