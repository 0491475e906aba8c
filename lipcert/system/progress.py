"""Progress of long work: a bar on a terminal, elsewhere a line in the log now and then."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

INTERVAL = 30.0
"""Seconds between two lines in a log."""

logger = logging.getLogger(__name__)


def logged(title: str, total: int) -> Callable[..., None]:
    """Return what `progress` yields in a log: how many are done and the time left, every `INTERVAL` seconds."""
    started = said = time.monotonic()
    done = 0

    def advance(count: int = 1) -> None:
        nonlocal said, done
        done, now = done + count, time.monotonic()
        if now - said >= INTERVAL and 0 < done < total:
            left = timedelta(seconds=round((now - started) / done * (total - done)))
            logger.info("%s: %d of %d, %s left", title, done, total, left)
            said = now

    return advance


@contextmanager
def progress(title: str, total: int, shown: bool = True) -> Iterator[Callable[..., None]]:
    """Show a progress bar while the block runs, or log progress where standard error is no terminal; if `shown`.

    What it yields is called with how many more of the `total` are done, one by default.
    """
    console = Console(stderr=True)
    if shown and not console.is_terminal:
        yield logged(title, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not (shown and console.is_terminal), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count=1: bar.advance(task, count)
