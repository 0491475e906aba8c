"""What a user sees of a record or a measurement: tables, the failure probability, where it lies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lipcert.records import Record
from lipcert.reporting.measurements import NOT_CONVERGED, ConvergenceRow, CurveRow, Header


def print_record(record: Record, folder: Path) -> None:
    """Print accuracies at each epsilon, the work of each stage, and the failure probability of it all."""
    console, contents, data = Console(), record.contents, record.contents.data
    title = f"{data.num_images} {data.split} images of {data.name}"
    accuracies = _table(title, 0, "epsilon", "clean", "certified")
    for totals in record.totals:
        accuracies.add_row(f"{totals.epsilon:.6g}", f"{totals.clean_accuracy:.1%}", f"{totals.certified_accuracy:.1%}")
    columns = ("stage", "bound", "Lanczos steps", "entered", "certified", "seconds")
    stages = _table("stages, all epsilons together", 2, *columns)
    for stage in contents.stages:
        numbers = (str(stage.lanczos_steps), str(stage.entered), str(stage.certified), f"{stage.seconds:.1f}")
        stages.add_row(stage.name, stage.bound, *numbers)
    failure = contents.failure_probability
    certainty = f"with probability at least 1 - {failure.total:.1e} ({failure.norms} norms that may fail)"
    console.print(accuracies)
    console.print(stages)
    console.print(f"All of it holds {certainty if failure.norms else 'for certain'}; {contents.seconds:.1f} seconds.")
    console.print(contents.arithmetic.statement)
    console.print(f"The record is in {folder}", soft_wrap=True, markup=False)


def print_measurement(
    header: Header, curves: Sequence[CurveRow], convergence: Sequence[ConvergenceRow], folder: Path
) -> None:
    """Print accuracies at each radius, medians of power iterations, the failure probability."""
    console, data = Console(), header.data
    bounds = (f"certified, {bound}" for bound in header.bounds)
    title = f"{data['num_images']} {data['split']} images of {data['name']}"
    accuracies = _table(title, 0, "epsilon", "withstand PGD", *bounds)
    for row in curves:
        accuracies.add_row(f"{row.epsilon:.4g}", f"{row.pgd:.1%}", *(f"{each:.1%}" for each in row.certified))
    failure = header.failure_probability
    certainty = f"with probability at least 1 - {failure['total']:.1e}" if failure["norms"] else "for certain"
    console.print(accuracies)
    if convergence:
        console.print(_convergence(header, convergence))
    console.print(f"All certified radii hold together {certainty}; {header.seconds:.1f} seconds.")
    console.print(header.arithmetic)
    console.print(f"The measurement is in {folder}", soft_wrap=True, markup=False)


def _convergence(header: Header, convergence: Sequence[ConvergenceRow]) -> Table:
    """Return a table of medians of power iterations, by layer."""
    about = header.convergence
    title = f"power iterations until a vector moves by {about['tolerance']:g}, {about['images']} images"
    table = _table(title, 1, "layer", "median", "not converged")
    for layer in dict.fromkeys(row.layer for row in convergence):
        rows = [row for row in convergence if row.layer == layer]
        middle = median(rows)
        late = sum(row.images for row in rows if row.iterations == NOT_CONVERGED)
        table.add_row(layer, f"> {about['largest']}" if middle == NOT_CONVERGED else str(middle), str(late))
    return table


def median(rows: Sequence[ConvergenceRow]) -> int:
    """Return the (lower) median of iterations over the images of one layer; `NOT_CONVERGED` is the most.

    Raises:
        ValueError: for no images.
    """
    ordered = sorted(rows, key=lambda row: (row.iterations == NOT_CONVERGED, row.iterations))
    middle, images = (sum(row.images for row in rows) + 1) // 2, 0
    for row in ordered:
        images += row.images
        if images >= middle:
            return row.iterations
    raise ValueError("Expected rows of a layer, got none.")


def _table(title: str, words: int, *columns: str) -> Table:
    """Return a table whose columns after the first `words` hold numbers."""
    table = Table(title=title)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < words else "right")
    return table
