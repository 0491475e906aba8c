"""What a user sees of a record, a measurement or the findings of a soundness run: tables, and where it lies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lipcert.records import Record
from lipcert.records.measurement import NOT_CONVERGED, ConvergenceRow, CurveRow, Header
from lipcert.soundness.attacked import AttackOutcome
from lipcert.soundness.findings import Findings
from lipcert.soundness.norms import NormsOutcome


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
    console.print(accuracies)
    console.print(stages)
    console.print(f"All of it holds {contents.failure_probability.certainty}; {contents.seconds:.1f} seconds.")
    console.print(contents.arithmetic.statement)
    console.print(f"The record is in {folder}", soft_wrap=True, markup=False)


def print_measurement(
    header: Header, curves: Sequence[CurveRow], convergence: Sequence[ConvergenceRow], folder: Path
) -> None:
    """Print accuracies at each radius, medians of power iterations, the failure probability."""
    console, data = Console(), header.data
    bounds = (f"certified, {bound}" for bound in header.bounds)
    title = f"{data.num_images} {data.split} images of {data.name}"
    accuracies = _table(title, 0, "epsilon", "withstand PGD", *bounds)
    for row in curves:
        accuracies.add_row(f"{row.epsilon:.4g}", f"{row.pgd:.1%}", *(f"{each:.1%}" for each in row.certified))
    console.print(accuracies)
    if convergence:
        console.print(_convergence(header, convergence))
    console.print(
        f"All certified radii hold together {header.failure_probability.certainty}; {header.seconds:.1f} seconds."
    )
    console.print(header.arithmetic)
    console.print(f"The measurement is in {folder}", soft_wrap=True, markup=False)


def _convergence(header: Header, convergence: Sequence[ConvergenceRow]) -> Table:
    """Return a table of medians of power iterations, by layer."""
    about = header.convergence
    title = f"power iterations until a vector moves by {about.tolerance:g}, {about.images} images"
    table = _table(title, 1, "layer", "median", "not converged")
    for layer in dict.fromkeys(row.layer for row in convergence):
        rows = [row for row in convergence if row.layer == layer]
        middle = median(rows)
        late = sum(row.images for row in rows if row.iterations == NOT_CONVERGED)
        table.add_row(layer, f"> {about.largest}" if middle == NOT_CONVERGED else str(middle), str(late))
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


def print_findings(findings: Findings, folder: Path) -> None:
    """Print the outcome of each part of a soundness run."""
    console = Console()
    console.print(f"{findings.certified} of {findings.images} images certified; {findings.certify_seconds:.1f} s")
    if findings.norms.asked:
        console.print(_norms(findings.norms))
        short = findings.norms.compared < findings.norms.asked
        more = f"; {findings.norms.asked} were asked for, type a larger limit=" if short else ""
        console.print(f"{findings.norms.compared} norms compared; {findings.norms.seconds:.1f} s{more}")
    if findings.attacks:
        console.print(_attacks(findings.attacks))
        console.print(f"the smallest certified margin is {findings.attacks[0].smallest_certified:.4g}")
    else:
        console.print("Nothing is certified, so nothing was attacked.")
    if findings.rounding is not None:
        part = findings.rounding
        console.print(
            f"rounding: {part.points} points, {part.above} beyond what certificates allow for; the largest error is "
            f"{part.largest_error:.3g}, {part.largest_share:.3g} of what they do; {part.seconds:.1f} s"
        )
    if findings.precision is not None:
        precise = findings.precision
        console.print(
            f"float64: {precise.refused} of {precise.certified} certified images refused; {precise.seconds:.1f} s"
        )
    console.print(f"The findings are in {folder}", soft_wrap=True, markup=False)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value - 1:.2e}"


def _norms(outcome: NormsOutcome) -> Table:
    columns = ("layer", "kind", "method", "compared", "count", "smallest", "largest", "below 0")
    table = _table("norm upper bounds over exact norms, less 1", 4, *columns)
    for each in outcome.ratios:
        compared = "parts" if each.parts else "all"
        numbers = (str(each.count), _number(each.smallest), _number(each.largest), str(each.below))
        table.add_row(each.layer, each.kind, each.method, compared, *numbers)
    return table


def _attacks(outcomes: tuple[AttackOutcome, ...]) -> Table:
    columns = ("attack", "pixels", "images", "found", "below", "executed", "least room", "seconds")
    table = _table("attacks on certified images: smallest executed margin, less certified", 2, *columns)
    for each in outcomes:
        table.add_row(
            each.attack,
            "[0, 1]".replace("[", r"\[") if each.box else "free",
            *(str(number) for number in (each.attacked, each.found, each.below)),
            *(f"{number:.4g}" for number in (each.smallest_executed, each.smallest_room)),
            f"{each.seconds:.1f}",
        )
    return table


def _table(title: str, words: int, *columns: str) -> Table:
    """Return a table whose columns after the first `words` hold numbers."""
    table = Table(title=title)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < words else "right")
    return table
