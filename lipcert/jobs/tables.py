"""What a user sees of a record, a measurement or the findings of a soundness run: tables, and where it lies."""

import math
import shlex
from collections.abc import Iterable, Sequence
from itertools import chain, repeat
from pathlib import Path
from statistics import median_low

from rich.console import Console
from rich.table import Table

from lipcert.records import Data, Record
from lipcert.records.measurement import NOT_CONVERGED, ConvergenceRow, CurveRow, Header
from lipcert.soundness.attacked import AttackOutcome
from lipcert.soundness.claims import Audit
from lipcert.soundness.examination import Findings
from lipcert.soundness.norms import NormsOutcome
from lipcert.system.configuration import OURS


def print_record(record: Record, folder: Path) -> None:
    """Print accuracies at each epsilon, the work of each stage, and the failure probability of it all."""
    contents = record.contents
    accuracies = (
        (f"{each.epsilon:.6g}", f"{each.clean_accuracy:.1%}", f"{each.certified_accuracy:.1%}")
        for each in record.totals
    )
    stages = (
        (each.name, each.bound, each.lanczos_steps, each.entered, each.certified, f"{each.seconds:.1f}")
        for each in contents.stages
    )
    columns = ("stage", "bound", "Lanczos steps", "entered", "certified", "seconds")
    check = ["python", "-m", "lipcert.check", str(folder), "--checkpoint", contents.checkpoint]
    builder = contents.model.description.get("builder")
    check += [] if builder in (None, *OURS) else ["--builder", str(builder)]
    _print(
        _table(_title(contents.data), 0, ("epsilon", "clean", "certified"), accuracies),
        _table("stages, all epsilons together", 2, columns, stages),
        f"All of it holds {contents.failure_probability.certainty}; {contents.seconds:.1f} seconds.",
        contents.arithmetic.statement,
        where=f"The record is in {folder}\nNext: {shlex.join(check)}",
    )


def print_measurement(
    header: Header, curves: Sequence[CurveRow], convergence: Sequence[ConvergenceRow], folder: Path
) -> None:
    """Print accuracies at each radius, medians of power iterations, the failure probability."""
    columns = ("epsilon", "withstand PGD", *(f"certified, {bound}" for bound in header.bounds))
    accuracies = ((f"{row.epsilon:.4g}", *(f"{each:.1%}" for each in (row.pgd, *row.certified))) for row in curves)
    _print(
        _table(_title(header.data), 0, columns, accuracies),
        *([_convergence(header, convergence)] if convergence else []),
        f"All certified radii hold together {header.failure_probability.certainty}; {header.seconds:.1f} seconds.",
        header.arithmetic,
        where=f"The measurement is in {folder}",
    )


def print_findings(findings: Findings, folder: Path) -> None:
    """Print the outcome of each part of a soundness run."""
    norms, rounding, precision = findings.norms, findings.rounding, findings.precision
    parts: list[Table | str] = [
        f"{findings.certified} of {findings.images} images certified; {findings.certify_seconds:.1f} s"
    ]
    if norms.asked:
        more = f"; {norms.asked} were asked for, type a larger limit=" if norms.compared < norms.asked else ""
        parts += [_norms(norms), f"{norms.compared} norms compared; {norms.seconds:.1f} s{more}"]
    if findings.attacks:
        smallest = findings.attacks[0].smallest_certified
        parts += [_attacks(findings.attacks), f"the smallest certified margin is {smallest:.4g}"]
    else:
        parts.append("Nothing is certified, so nothing was attacked.")
    if rounding is not None:
        parts.append(
            f"rounding: {rounding.points} points, {rounding.above} beyond what certificates allow for; the largest "
            f"error is {rounding.largest_error:.3g}, {rounding.largest_share:.3g} of what they do; "
            f"{rounding.seconds:.1f} s"
        )
    if precision is not None:
        refused = f"{precision.refused} of {precision.certified} certified images refused"
        parts.append(f"float64: {refused}; {precision.seconds:.1f} s")
    _print(*parts, where=f"The findings are in {folder}")


def print_audit(audit: Audit, data: Data, folder: Path) -> None:
    """Print what is claimed of a network and of its layers, what is proved and what an attack reached."""
    columns = ("layer", "kind", "claimed", "attacked", "upper bound", "verdict")
    rows = (
        (
            *(each.name or "-", each.kind, "-" if each.claimed is None else f"{each.claimed:.6g}"),
            *(f"{each.attacked:.6g}", f"{each.upper:.6g}", each.verdict or "-"),
        )
        for each in (audit.network, *audit.layers)
    )
    parts: list[Table | str] = [_table("Lipschitz constants in l2", 2, columns, rows)]
    if audit.implied and any(each.claimed is not None for each in audit.layers):
        parts.append("Nothing was claimed of layers: the claims of 1 are what the network's is thought to follow from.")
    if audit.normalization > 1:
        parts.append(
            f"Before any layer that mixes pixels, a normalisation enlarges distances by {audit.normalization:.6g}: "
            "radii behind it are that much smaller in pixels."
        )
    ties = f"{audit.ties} of {_title(data)} have two logits that share the largest value"
    parts += [f"{ties}{': no prediction.' if audit.ties else '.'}"]
    parts.append(f"All upper bounds hold together {audit.failure_probability.certainty}.")
    _print(*parts, where=f"The audit is in {folder}")


def _print(*parts: Table | str, where: str) -> None:
    console = Console()
    for part in parts:
        console.print(part)
    console.print(where, soft_wrap=True, markup=False)


def _title(data: Data) -> str:
    return f"{data.num_images} {data.split} images of {data.name}"


def _table(title: str, words: int, columns: Sequence[str], rows: Iterable[Iterable[object]]) -> Table:
    """Return a table whose columns after the first `words` hold numbers."""
    table = Table(title=title)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < words else "right")
    for row in rows:
        table.add_row(*map(str, row))
    return table


def _convergence(header: Header, convergence: Sequence[ConvergenceRow]) -> Table:
    """Return a table of (lower) medians of power iterations, by layer."""
    about, lines = header.convergence, []
    for layer in dict.fromkeys(row.layer for row in convergence):
        rows = [row for row in convergence if row.layer == layer]
        counts = ((math.inf if row.iterations == NOT_CONVERGED else row.iterations, row.images) for row in rows)
        median = median_low(chain.from_iterable(repeat(*each) for each in counts))
        late = sum(row.images for row in rows if row.iterations == NOT_CONVERGED)
        lines.append((layer, f"> {about.largest}" if math.isinf(median) else median, late))
    title = f"power iterations until a vector moves by {about.tolerance:g}, {about.images} images"
    return _table(title, 1, ("layer", "median", "not converged"), lines)


def _norms(outcome: NormsOutcome) -> Table:
    columns = ("layer", "kind", "method", "compared", "count", "smallest", "largest", "below 0")
    rows = (
        (
            *(each.layer, each.kind, each.method, "parts" if each.parts else "all", each.count),
            *("-" if ratio is None else f"{ratio - 1:.2e}" for ratio in (each.smallest, each.largest)),
            each.below,
        )
        for each in outcome.ratios
    )
    return _table("norm upper bounds over exact norms, less 1", 4, columns, rows)


def _attacks(outcomes: Iterable[AttackOutcome]) -> Table:
    columns = ("attack", "pixels", "images", "found", "below", "executed", "least room", "seconds")
    rows = (
        (
            *(each.attack, r"\[0, 1]" if each.box else "free", each.attacked, each.found, each.below),
            *(f"{margin:.4g}" for margin in (each.smallest_executed, each.smallest_room)),
            f"{each.seconds:.1f}",
        )
        for each in outcomes
    )
    return _table("attacks on certified images: smallest executed margin, less certified", 2, columns, rows)
