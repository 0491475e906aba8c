"""What Hydra calls when all jobs of a sweep are over: their list, their table, their report, the exit code."""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table

from lipcert.system.configuration import register
from lipcert.system.files import write_text
from lipcert.system.overrides import split_override
from lipcert.training.sweep.table import FAILED, collect, markdown, sweep_table


class SweepReport(Callback):
    """Writes `sweep.json` and `table.md`, prints the table, ends with exit code 1 if a job failed.

    With `report=true` it writes `report.html` and `figures/`, too.

    Args:
        command: what tells this command from others that run in the same folder.
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
            signal.signal(signal.SIGTERM, _stop)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Report; Hydra makes a warning of every other exception than SystemExit."""
        folder = Path(config.hydra.sweep.dir).absolute()
        messages = []
        try:
            messages.append(self._report(folder))
            if config.report:
                messages.append(_write_page(folder))
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


def _write_page(folder: Path) -> str:
    """Write the page of all jobs that are there; return why it could not be written."""
    from lipcert.reporting.report import PAGE_NAME, write_report

    try:
        write_report([folder], folder)
    except (ValueError, OSError) as error:
        return f"no report was written: {error}"
    sys.stdout.write(f"The report is in {folder / PAGE_NAME}\n")
    return ""


def _stop(number: int, frame: FrameType | None) -> None:
    """End by an exception, so that launchers end the processes of their jobs."""
    sys.exit(128 + number)


def _fail(message: str) -> None:
    sys.stderr.write(f"error: {message}\n")
    sys.exit(1)
