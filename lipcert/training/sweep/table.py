"""The jobs of a sweep: how each ended, and a table with a row for those that differ in their seed alone."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lipcert.reporting.statistics import mean_and_deviation
from lipcert.system.files import write_json
from lipcert.system.overrides import names_a_job, split_override

COMPLETE, SKIPPED, FAILED = "complete", "skipped", "failed"
RECORDS = ".jobs"
"""Folder of the records of jobs while their sweep goes on."""

QUANTITIES = {
    "clean %": ("clean_accuracy", 100, 2),
    "PGD %": ("pgd_accuracy", 100, 2),
    "certified %": ("certified_accuracy", 100, 2),
    "L global": ("global_lipschitz", 1, 2),
    "L local": ("local_lipschitz_mean", 1, 2),
    "s an epoch": ("seconds_per_epoch", 1, 1),
}
"""Key in `results.json`, factor and digits of each column."""


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

    def record(self, sweep: Path, command: str) -> None:
        """Write how the job ended, for `collect`: `command` tells the sweep's command from others in its folder."""
        records = sweep / RECORDS / command
        records.mkdir(parents=True, exist_ok=True)
        write_json(records / f"{self.number}.json", asdict(self))


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


def sweep_table(sweep: Path, jobs: list[Job]) -> list[list[str]]:
    """Return the rows of a sweep's table, header first; `seeds` counts the jobs with results."""
    named = [dict(split_override(override) for override in job.overrides if names_a_job(override)) for job in jobs]
    keys = [key for key in dict.fromkeys(key for one in named for key in one) if key != "seed"]
    keys = [key for key in keys if len({one.get(key) for one in named}) > 1]
    groups: dict[tuple[str, ...], list[Job]] = {}
    for job, one in zip(jobs, named, strict=True):
        groups.setdefault(tuple(one.get(key, "") for key in keys), []).append(job)
    rows = [[*keys, "seeds", *QUANTITIES]]
    for labels, group in groups.items():
        files = [sweep / job.folder / "results.json" for job in group if job.state != FAILED]
        results = [json.loads(file.read_text(encoding="utf-8")) for file in files]
        seeds = f"{len(results)}" if len(results) == len(group) else f"{len(results)} of {len(group)}"
        rows.append([*labels, seeds, *(_cell(results, *quantity) for quantity in QUANTITIES.values())])
    return rows


def _cell(results: list[dict[str, Any]], key: str, factor: float, digits: int) -> str:
    return mean_and_deviation([each[key] for each in results if each[key] is not None], factor, digits)


def markdown(rows: list[list[str]]) -> str:
    """Return a table in Markdown, its first row as header."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]) + "\n"
