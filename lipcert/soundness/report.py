"""What the user sees of a soundness run: one table a part."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from lipcert.soundness.attacked import AttackFound
from lipcert.soundness.findings import Findings
from lipcert.soundness.norms import NormsFound


def report(findings: Findings, folder: Path) -> None:
    """Print what each part found and where it is written."""
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


def _table(title: str, words: tuple[str, ...], numbers: tuple[str, ...]) -> Table:
    table = Table(title=title)
    for column in words:
        table.add_column(column)
    for column in numbers:
        table.add_column(column, justify="right")
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value - 1:.2e}"


def _norms(found: NormsFound) -> Table:
    words = ("layer", "kind", "method", "compared")
    table = _table("norm upper bounds over exact norms, less 1", words, ("count", "smallest", "largest", "below 0"))
    for each in found.ratios:
        compared = "parts" if each.parts else "all"
        numbers = (str(each.count), _number(each.smallest), _number(each.largest), str(each.below))
        table.add_row(each.layer, each.kind, each.method, compared, *numbers)
    return table


def _attacks(found: tuple[AttackFound, ...]) -> Table:
    numbers = ("images", "found", "below", "executed", "least room", "seconds")
    table = _table(
        "attacks on certified images: smallest executed margin, less certified", ("attack", "pixels"), numbers
    )
    for each in found:
        table.add_row(
            each.attack,
            "[0, 1]".replace("[", r"\[") if each.box else "free",
            *(str(number) for number in (each.attacked, each.found, each.below)),
            *(f"{number:.4g}" for number in (each.smallest_executed, each.smallest_room)),
            f"{each.seconds:.1f}",
        )
    return table
