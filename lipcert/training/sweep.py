"""One job of a sweep: skipped where it is complete, recorded however it ends, so that the others go on."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import math
import shutil
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from lipcert.system.errors import EXPECTED_ERRORS
from lipcert.system.files import write_json, write_text
from lipcert.training.resuming import AUTO, completed

logger = logging.getLogger(__name__)

COMPLETE, SKIPPED, FAILED = "complete", "skipped", "failed"
RECORDS = ".jobs"
"""Folder of the records of jobs while their sweep goes on."""


@dataclass(frozen=True)
class Job:
    """How a job ended.

    Attributes:
        number: its place in the sweep.
        overrides: what it was started with.
        folder: name of its folder inside the sweep's.
        state: `complete`, `skipped` because it was complete before, or `failed`.
        message: of its error.
    """

    number: int
    overrides: list[str]
    folder: str
    state: str
    message: str | None = None


def is_job_of_sweep() -> bool:
    """Whether the present run is one of several."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


def run_job(run: Callable[[DictConfig], float], config: DictConfig) -> float:
    """Run the present job of a sweep, from where it was cut off, and record how it ended.

    Returns its certified accuracy, NaN if it failed.

    Whatever `run` raises is recorded, with its traceback in `error.txt`; what ends the process passes through.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    if config.resume is None:
        config.resume = AUTO
    try:
        before = completed(folder, config)
    except ValueError as error:
        return _failed(folder, error)
    if before is not None:
        _record(folder, SKIPPED)
        return float(before.results["certified_accuracy"])
    (folder / "error.txt").unlink(missing_ok=True)
    try:
        certified = run(config)
    except Exception as error:
        with contextlib.suppress(OSError):  # the record is still to come
            write_text(folder / "error.txt", traceback.format_exc())
        logger.error("%s", sentence(error))
        return _failed(folder, error)
    finally:
        gc.collect()  # what a failed job held must not be missing to the next one
    _record(folder, COMPLETE)
    return certified


def sentence(error: Exception) -> str:
    """Return what to say of an error, on one line; a fault of lipcert is called by its type."""
    text = " ".join(" ".join([str(error), *getattr(error, "__notes__", [])]).split())
    return text if isinstance(error, EXPECTED_ERRORS) else f"{type(error).__name__}: {text}"


def _failed(folder: Path, error: Exception) -> float:
    _record(folder, FAILED, sentence(error))
    return math.nan


def _record(folder: Path, state: str, message: str | None = None) -> None:
    hydra = HydraConfig.get()
    records = folder.parent / RECORDS / hydra.callbacks["sweep"]["command"]
    records.mkdir(parents=True, exist_ok=True)
    job = Job(hydra.job.num, list(hydra.overrides.task), folder.name, state, message)
    write_json(records / f"{job.number}.json", asdict(job))


def collect(sweep: Path, command: str) -> list[Job]:
    """Return the jobs of a command in order, and write them to `sweep.json` in place of their records."""
    records = sweep / RECORDS / command
    jobs = [Job(**json.loads(path.read_text(encoding="utf-8"))) for path in records.glob("[!.]*.json")]
    jobs.sort(key=lambda job: job.number)
    write_json(sweep / "sweep.json", {"jobs": [asdict(job) for job in jobs]})
    shutil.rmtree(records, ignore_errors=True)
    with contextlib.suppress(OSError):  # another command's are there
        records.parent.rmdir()
    return jobs
