"""What Hydra calls when all jobs of a sweep are over: their list, their table, the exit code."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from lipcert.config import register


class SweepReport(Callback):
    """Writes `sweep.json` and `table.md`, prints the table, ends with exit code 1 if a job failed.

    Args:
        command: what tells this command from others that run in the same folder.
    """

    def __init__(self, command: str) -> None:
        self.command = command

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Arrive in the process of a job, where nobody has made the resolvers known."""
        register()
        self.__dict__.update(state)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Report; Hydra makes a warning of every other exception than SystemExit."""
        try:
            message = self._report(Path(config.hydra.sweep.dir).absolute())
        except Exception:
            message = traceback.format_exc()
        if message is not None:
            sys.stderr.write(f"error: {message}\n")
            sys.exit(1)

    def _report(self, folder: Path) -> str | None:
        """Write and print; return what to say of failed jobs."""
        from lipcert.commands import write_text
        from lipcert.training.sweep import FAILED, collect
        from lipcert.training.sweep_table import markdown, sweep_table

        jobs = collect(folder, self.command)
        rows = sweep_table(folder, jobs)
        write_text(folder / "table.md", markdown(rows))
        _print(folder, rows)
        failed = [job for job in jobs if job.state == FAILED]
        if not failed:
            return None
        names = "\n".join(f"  {job.folder}: {job.message}" for job in failed)
        return (
            f"{len(failed)} of {len(jobs)} jobs failed; the same command runs them again and skips the others.\n{names}"
        )


def _print(folder: Path, rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*rows[0], title=f"Jobs of {folder}")
    for row in rows[1:]:
        table.add_row(*row)
    console = Console()
    console.print(table)
    console.print(f"Everything of this sweep is in {folder}", soft_wrap=True)
