"""What the user sees of a record: two tables and where it lies."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from lipcert.records import Record


def report(record: Record, folder: Path) -> None:
    """Print accuracies at each epsilon, the work of each stage, and the failure probability of it all."""
    console = Console()
    console.print(_accuracies(record))
    console.print(_stages(record))
    contents = record.contents
    failure = contents.failure_probability
    certainty = f"with probability at least 1 - {failure.total:.1e} ({failure.norms} norms that may fail)"
    console.print(f"All of it holds {certainty if failure.norms else 'for certain'}; {contents.seconds:.1f} seconds.")
    console.print(contents.arithmetic.statement)
    console.print(f"The record is in {folder}", soft_wrap=True, markup=False)


def _accuracies(record: Record) -> Table:
    contents = record.contents
    table = Table(title=f"{contents.data.num_images} {contents.data.split} images of {contents.data.name}")
    for column in ("epsilon", "clean", "certified"):
        table.add_column(column, justify="right")
    for totals in record.totals:
        table.add_row(f"{totals.epsilon:.6g}", f"{totals.clean_accuracy:.1%}", f"{totals.certified_accuracy:.1%}")
    return table


def _stages(record: Record) -> Table:
    table = Table(title="stages, all epsilons together")
    for column in ("stage", "bound", "Lanczos steps", "entered", "certified", "seconds"):
        table.add_column(column, justify="left" if column in ("stage", "bound") else "right")
    for stage in record.contents.stages:
        numbers = (str(stage.lanczos_steps), str(stage.entered), str(stage.certified), f"{stage.seconds:.1f}")
        table.add_row(stage.name, stage.bound, *numbers)
    return table
