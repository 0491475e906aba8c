"""The table of a sweep: rows, means and deviations over seeds, missing results."""

from __future__ import annotations

import json
from pathlib import Path

from lipcert.training.sweep.report import COMPLETE, FAILED, SKIPPED, Job, markdown, sweep_table


def _job(sweep: Path, number: int, state: str, certified: float | None, *overrides: str) -> Job:
    job = Job(number, ["sweep=mine", "epsilon=0.3", *overrides], f"job{number}", state)
    if certified is not None:
        (sweep / job.folder).mkdir()
        results = {"clean_accuracy": 0.5, "pgd_accuracy": None, "certified_accuracy": certified}
        results |= {"global_lipschitz": 2.0, "local_lipschitz_mean": 1.25, "seconds_per_epoch": 3.0}
        (sweep / job.folder / "results.json").write_text(json.dumps(results))
    return job


def test_rows(tmp_path: Path) -> None:
    jobs = [
        _job(tmp_path, 0, COMPLETE, 0.30, "method=bcp", "seed=0"),
        _job(tmp_path, 1, SKIPPED, 0.40, "method=bcp", "seed=1"),
        _job(tmp_path, 2, COMPLETE, 0.20, "method=gloro", "seed=0"),
        _job(tmp_path, 3, FAILED, None, "method=gloro", "seed=1"),
    ]
    assert sweep_table(tmp_path, jobs) == [
        ["method", "seeds", "clean %", "PGD %", "certified %", "L global", "L local", "s an epoch"],
        ["bcp", "2", "50.00 ± 0.00", "-", "35.00 ± 7.07", "2.00 ± 0.00", "1.25 ± 0.00", "3.0 ± 0.0"],
        ["gloro", "1 of 2", "50.00", "-", "20.00", "2.00", "1.25", "3.0"],
    ]


def test_results_of_a_failed_job_do_not_count(tmp_path: Path) -> None:
    """A refused folder holds the results of another configuration."""
    jobs = [_job(tmp_path, 0, FAILED, 0.9, "seed=0"), _job(tmp_path, 1, COMPLETE, 0.1, "seed=1")]
    assert sweep_table(tmp_path, jobs)[1][:4] == ["1 of 2", "50.00", "-", "10.00"]


def test_a_setting_that_some_jobs_lack(tmp_path: Path) -> None:
    jobs = [_job(tmp_path, 0, COMPLETE, 0.1, "a=1"), _job(tmp_path, 1, COMPLETE, 0.1)]
    assert [row[0] for row in sweep_table(tmp_path, jobs)] == ["a", "1", ""]


def test_markdown() -> None:
    assert markdown([["a", "b"], ["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n"
