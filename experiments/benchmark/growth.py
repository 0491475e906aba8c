"""Turn the rows of `python -m lipcert.benchmark growth=[...]` into the table of README.md, between its markers.

python experiments/benchmark/growth.py experiments/benchmark/growth.json experiments/benchmark/README.md
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from lipcert.commands import write_text

START, END = "<!-- growth -->", "<!-- end of growth -->"


def table(content: dict[str, Any]) -> str:
    """Return one Markdown row a kind of growth and bound: seconds and memory at each size, the exponent of seconds."""
    lines = ["| grows | sizes | bound | seconds | MB | seconds ~ size^ |", "| --- | --- | --- | --- | --- | --- |"]
    for fit in content["exponents"]:
        rows = [row for row in content["rows"] if (row["growth"], row["bound"]) == (fit["growth"], fit["bound"])]
        sizes = ", ".join(f"{row['size']:g}" for row in rows)
        seconds = ", ".join(f"{row['seconds']:.4f}" for row in rows)
        memory = ", ".join("-" if row["peak_memory_mb"] is None else f"{row['peak_memory_mb']:.0f}" for row in rows)
        bound, kind = fit["bound"].replace("_", " "), fit["growth"].replace("_", " ")
        lines.append(f"| {kind} | {sizes} | {bound} | {seconds} | {memory} | {fit['exponent']:.2f} |")
    return "\n".join(lines)


def placed(text: str, inserted: str) -> str:
    """Return `text` with what stands between the markers replaced.

    Raises:
        ValueError: where the markers are missing.
    """
    before, marker, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not marker or not end:
        raise ValueError(f"Expected {START} and {END} in the page; add them where the table belongs.")
    return f"{before}{START}\n\n{inserted}\n\n{END}{after}"


def main() -> None:
    """Rewrite the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("benchmark", type=Path)
    parser.add_argument("page", type=Path)
    arguments = parser.parse_args()
    content = json.loads(arguments.benchmark.read_text(encoding="utf-8"))
    write_text(arguments.page, placed(arguments.page.read_text(encoding="utf-8"), table(content)))


if __name__ == "__main__":
    main()
