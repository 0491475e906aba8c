"""The table of a sweep: a row for jobs that differ in their seed alone, numbers from `results.json` alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lipcert.reporting.statistics import mean_and_deviation
from lipcert.system.job_names import names_a_job, split_override
from lipcert.training.sweep import Job

QUANTITIES = {
    "clean %": ("clean_accuracy", 100, 2),
    "PGD %": ("pgd_accuracy", 100, 2),
    "certified %": ("certified_accuracy", 100, 2),
    "L global": ("global_lipschitz", 1, 2),
    "L local": ("local_lipschitz_mean", 1, 2),
    "s an epoch": ("seconds_per_epoch", 1, 1),
}
"""Key in `results.json`, factor and digits of each column."""


def settings(job: Job) -> dict[str, str]:
    """Return what tells a job from others, its seed aside."""
    found = dict(split_override(override) for override in job.overrides if names_a_job(override))
    return {key: value for key, value in found.items() if key != "seed"}


def sweep_table(sweep: Path, jobs: list[Job]) -> list[list[str]]:
    """Return the rows of a sweep's table, header first; `seeds` counts the jobs with results."""
    each = [settings(job) for job in jobs]
    keys = list(dict.fromkeys(key for one in each for key in one))
    keys = [key for key in keys if len({one.get(key) for one in each}) > 1]
    groups: dict[tuple[str, ...], list[dict[str, Any] | None]] = {}
    for job, one in zip(jobs, each, strict=True):
        groups.setdefault(tuple(one.get(key, "") for key in keys), []).append(_results(sweep / job.folder, job))
    rows = [[*keys, "seeds", *QUANTITIES]]
    for labels, results in groups.items():
        found = [result for result in results if result is not None]
        seeds = f"{len(found)}" if len(found) == len(results) else f"{len(found)} of {len(results)}"
        rows.append([*labels, seeds, *(_cell(found, *quantity) for quantity in QUANTITIES.values())])
    return rows


def markdown(rows: list[list[str]]) -> str:
    """Return a table in Markdown, its first row as header."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]) + "\n"


def _results(folder: Path, job: Job) -> dict[str, Any] | None:
    if job.state == "failed":
        return None
    return dict(json.loads((folder / "results.json").read_text(encoding="utf-8")))


def _cell(results: list[dict[str, Any]], key: str, factor: float, digits: int) -> str:
    return mean_and_deviation([each[key] for each in results if each[key] is not None], factor, digits)
