"""The jobs of a sweep: how each ended, and what Hydra calls when all are over: their table, report and exit code."""

import contextlib
import json
import shutil
import signal
import sys
import threading
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table

from lipcert.reporting.tables import mean_and_deviation
from lipcert.system.configuration import register
from lipcert.system.files import write_json, write_text
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
    """How a job ended: `complete`, `skipped` because it was complete before, or `failed` with a message.

    `number`: its place in the sweep; `folder`: the name of its own inside the sweep's.
    """

    number: int
    overrides: list[str]
    folder: str
    state: str
    message: str | None = None


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
        labels = tuple(one.get(key, "").replace("\\", "") for key in keys)  # before colons
        groups.setdefault(labels, []).append(job)
    rows = [[*keys, "seeds", *QUANTITIES]]
    for labels, group in groups.items():
        files = [sweep / job.folder / "results.json" for job in group if job.state != FAILED]
        results = [json.loads(file.read_text(encoding="utf-8")) for file in files]
        seeds = f"{len(results)}" if len(results) == len(group) else f"{len(results)} of {len(group)}"
        cells = (
            mean_and_deviation([each[key] for each in results if each[key] is not None], factor, digits)
            for key, factor, digits in QUANTITIES.values()
        )
        rows.append([*labels, seeds, *cells])
    return rows


def markdown(rows: list[list[str]]) -> str:
    """Return a table in Markdown, its first row as header."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]) + "\n"


class SweepReport(Callback):
    """Writes `sweep.json` and `table.md`, prints the table, ends with exit code 1 if a job failed.

    With `report=true` it writes `report.html` and `figures/`, too. `command` tells this command from others that run in
    the same folder.
    """

    def __init__(self, command: str) -> None:
        self.command = command

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Arrive in the process of a job, where nobody has made the resolvers known."""
        register()
        self.__dict__.update(state)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse several named sweeps at once: a job takes the settings of a sweep, not its jobs."""
        for override in config.hydra.overrides.task:
            key, sweep = split_override(override)
            if key == "sweep" and "," in sweep:
                _fail(f"Expected one `sweep` a command, got {sweep}; type one after the other.")
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            # an exception lets launchers end the processes of their jobs
            signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Report; Hydra makes a warning of every other exception than SystemExit."""
        folder = Path(config.hydra.sweep.dir).absolute()
        messages = []
        try:
            messages.append(self._report(folder))
            if config.report:
                from lipcert.reporting.report import PAGE_NAME, write_report

                write_report([folder], folder)
                sys.stdout.write(f"The report is in {folder / PAGE_NAME}\n")
        except (ValueError, OSError) as error:
            messages.append(f"no report was written: {error}")
        except Exception:
            messages.append(traceback.format_exc())
        if any(messages):
            _fail("\n".join(filter(None, messages)))

    def _report(self, folder: Path) -> str:
        """Write and print the table; return what to say of failed jobs."""
        jobs = collect(folder, self.command)
        if not jobs:
            return f"no job left a record in {folder}."
        header, *rows = sweep_table(folder, jobs)
        write_text(folder / "table.md", markdown([header, *rows]))
        table = Table(*(Column(name, overflow="fold") for name in header), box=SIMPLE, padding=(0, 1, 0, 0))
        for row in rows:
            table.add_row(*row)
        console = Console()
        console.print(table)
        console.print(f"Everything of this sweep is in {folder}", soft_wrap=True)
        failed = [f"  {job.folder}: {job.message}" for job in jobs if job.state == FAILED]
        count = f"{len(failed)} of {len(jobs)} jobs failed; the same command runs them again and skips the others."
        return "\n".join([count, *failed]) if failed else ""


def _fail(message: str) -> None:
    sys.stderr.write(f"error: {message}\n")
    sys.exit(1)
