"""Progress bars of long preparations, on a terminal's standard error only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Advance = Callable[[int, int | None], None]
"""Tells how much is done, and of how much if that is known."""


@contextmanager
def progress(title: str, unit: Literal["bytes", "items"] = "items", shown: bool = True) -> Iterator[Advance]:
    """Show a progress bar while the block runs; nothing where standard error is no terminal, or unless `shown`."""
    console = Console(stderr=True)
    amount = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not (shown and console.is_terminal), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
