"""Write the tables of the pages of experiments and zoo anew from what was recorded: python -m experiments.pages

A table stands between `<!-- table: KIND ARGUMENT ... -->` and `<!-- end of table -->`. Arguments of a table of runs are
an experiment and its rows, of a table of measurements JSON files, seen from the page.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments import measurements, tables
from experiments.runs import HERE, Run, read
from lipcert.checkpoints.reading import ZOO as NETWORKS
from lipcert.system.files import write_text
from lipcert.zoo import leaderboard, read_card

OF_RUNS: dict[str, Callable[..., tables.Table]] = {
    "accuracies": tables.accuracies,
    "by_seed": tables.by_seed,
    "seconds": tables.seconds,
    "typed": tables.typed,
    "levers": tables.levers,
}
OF_FILES: dict[str, Callable[[measurements.Files], tables.Table]] = {
    "steps": measurements.steps,
    "growth": measurements.growth,
    "estimates": measurements.estimates,
    "costs": measurements.costs,
    "refutations": measurements.refutations,
    "stages": measurements.stages,
    "records": measurements.records,
    "others": measurements.others,
}
ZOO, CARDS = "zoo", sorted(NETWORKS.glob("*/card.json"))
MARKED = re.compile(r"<!-- table: ([^\n]*) -->\n.*?<!-- end of table -->", re.DOTALL)


def pages(folder: Path = HERE) -> list[Path]:
    """Return the pages of all experiments, and that of the zoo."""
    return [*sorted(folder.glob("*/README.md")), folder.parent / "docs" / "zoo.md"]


def written(text: str, runs: Sequence[Run], folder: Path) -> str:
    """Return a page's text with its tables made anew.

    Args:
        text: of the page.
        runs: of the table of runs.
        folder: of the page, in which measurements lie.

    Raises:
        ValueError: for a kind of table that is not known, or a row without runs.
    """

    def replaced(found: re.Match[str]) -> str:
        kind, *words = found[1].split()
        if kind in OF_RUNS:
            rows = OF_RUNS[kind](runs, *words)
        elif kind in OF_FILES:
            rows = OF_FILES[kind]({word: json.loads((folder / word).read_text(encoding="utf-8")) for word in words})
        elif kind == ZOO:
            rows = list(map(list, leaderboard({path.parent.name: read_card(path.parent) for path in CARDS})))
        else:
            raise ValueError(f"Expected one of {', '.join([*OF_RUNS, *OF_FILES, ZOO])} in a page's table, got {kind}.")
        return f"<!-- table: {found[1]} -->\n\n{markdown(rows)}\n\n<!-- end of table -->"

    return MARKED.sub(replaced, text)


def markdown(rows: tables.Table) -> str:
    """Return a table in Markdown, its first row as header."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line, which has no arguments; argparse exits with code 2 where there are some."""
    return argparse.ArgumentParser(prog="python -m experiments.pages", description=__doc__).parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Rewrite all pages."""
    arguments(words)
    runs = read()
    for page in pages():
        write_text(page, written(page.read_text(encoding="utf-8"), runs, page.parent))


if __name__ == "__main__":
    main()
