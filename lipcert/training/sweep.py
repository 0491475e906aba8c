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
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict, read_write

from lipcert.commands import EXPECTED_ERRORS, write_json, write_text
from lipcert.training.job_place import OtherRunError, find_place, is_complete

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
    """Run the present job of a sweep and record how it ended; return its certified accuracy, NaN if it failed.

    Whatever `run` raises is recorded, with its traceback in `error.txt`; what ends the process passes through.
    """
    own = Path(HydraConfig.get().runtime.output_dir)
    try:
        folder = find_place(own, config)
    except OtherRunError as error:
        return _failed(own, error)
    if is_complete(folder):
        _record(folder, SKIPPED)
        return float(json.loads((folder / "results.json").read_text())["certified_accuracy"])
    _go_to(folder)
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


def _go_to(folder: Path) -> None:
    """Make `folder` the present job's."""
    folder.mkdir(exist_ok=True)
    config: Any = HydraConfig.instance().cfg
    with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
        config.hydra.runtime.output_dir = str(folder)


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
