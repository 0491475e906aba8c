"""What the user sees of a measurement: its curves, its power iterations, where it lies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lipcert.reporting.measurements import NOT_CONVERGED, ConvergenceRow, CurveRow, Header


def report(header: Header, found: Sequence[CurveRow], convergence: Sequence[ConvergenceRow], folder: Path) -> None:
    """Print accuracies at each radius, medians of power iterations, the failure probability."""
    console = Console()
    console.print(_curves(header, found))
    if convergence:
        console.print(_convergence(header, convergence))
    failure = header.failure_probability
    certainty = f"with probability at least 1 - {failure['total']:.1e}" if failure["norms"] else "for certain"
    console.print(f"All certified radii hold together {certainty}; {header.seconds:.1f} seconds.")
    console.print(header.arithmetic)
    console.print(f"The measurement is in {folder}", soft_wrap=True, markup=False)


def _curves(header: Header, found: Sequence[CurveRow]) -> Table:
    table = Table(title=f"{header.data['num_images']} {header.data['split']} images of {header.data['name']}")
    for column in ("epsilon", "withstand PGD", *(f"certified, {bound}" for bound in header.bounds)):
        table.add_column(column, justify="right")
    for row in found:
        table.add_row(f"{row.epsilon:.4g}", f"{row.pgd:.1%}", *(f"{each:.1%}" for each in row.certified))
    return table


def median(rows: Sequence[ConvergenceRow]) -> int:
    """Return the (lower) median of iterations over the images of one layer; `NOT_CONVERGED` is the most."""
    ordered = sorted(rows, key=lambda row: (row.iterations == NOT_CONVERGED, row.iterations))
    middle, seen = (sum(row.images for row in rows) + 1) // 2, 0
    for row in ordered:
        seen += row.images
        if seen >= middle:
            return row.iterations
    raise ValueError("Expected rows of a layer, got none.")


def _convergence(header: Header, convergence: Sequence[ConvergenceRow]) -> Table:
    about = header.convergence
    table = Table(title=f"power iterations until a vector moves by {about['tolerance']:g}, {about['images']} images")
    for column in ("layer", "median", "not converged"):
        table.add_column(column, justify="left" if column == "layer" else "right")
    for layer in dict.fromkeys(row.layer for row in convergence):
        rows = [row for row in convergence if row.layer == layer]
        middle = median(rows)
        late = sum(row.images for row in rows if row.iterations == NOT_CONVERGED)
        table.add_row(layer, f"> {about['largest']}" if middle == NOT_CONVERGED else str(middle), str(late))
    return table
