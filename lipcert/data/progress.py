"""Progress bars of long preparations, on a terminal's standard error only."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def progress(title: str, total: int, shown: bool = True) -> Iterator[Callable[..., None]]:
    """Show a progress bar while the block runs; nothing where standard error is no terminal, or unless `shown`.

    What it yields is called with how many more of the `total` are done, one by default.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not (shown and console.is_terminal), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count=1: bar.advance(task, count)
