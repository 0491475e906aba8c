"""Writes the tables of README.md from measure.json and the runs beside it.

python experiments/warm_start/table.py
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lipcert.commands import write_text

HERE = Path(__file__).parent


def markdown(header: list[str], rows: Iterable[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percent(fraction: float) -> str:
    """Return a fraction in per cent, one digit after the point."""
    return f"{100 * fraction:.1f}"


def estimates(measured: dict[str, Any]) -> str:
    """Return the table of one network: estimates over exact norms, time, memory."""
    timings = {(each["kind"], each["iterations"]): each["ratio"] for each in measured["timings"]}
    header = ["kind", "iterations", "mean %", "worst %", "product: mean %", "worst %", "mean % by layer", "time"]
    rows = [
        [
            row["kind"],
            str(row["iterations"]),
            percent(row["mean"]),
            percent(row["worst"]),
            percent(row["product_mean"]),
            percent(row["product_worst"]),
            " ".join(percent(each) for each in row["layers"]),
            f"{timings[row['kind'], row['iterations']]:.2f}",
        ]
        for row in measured["rows"]
    ]
    return markdown([*header, "bytes an image"], [[*row, f"{measured['bytes'][row[0]]:,}"] for row in rows])


def certified(folder: Path) -> str:
    """Return the table of trained networks, one row a kind and number of iterations."""
    groups: dict[tuple[str, int], list[tuple[str, dict[str, Any]]]] = {}
    for path in sorted(folder.glob("*_seed*/results.json")):
        kind, iterations = path.parent.name.split("_seed")[0].rsplit("_", 1)
        groups.setdefault((kind, int(iterations)), []).append((path.parent.name, json.loads(path.read_text())))
    rows = []
    for (kind, iterations), runs in sorted(groups.items(), key=lambda group: (-group[0][1], group[0][0])):
        results = [each for _, each in runs]
        links = ", ".join(f"[{each['seed']}]({name})" for name, each in runs)
        row = [kind, str(iterations), links]
        for key in ("clean_accuracy", "certified_accuracy"):
            values = [each[key] for each in results]
            row += [", ".join(map(percent, values)), percent(statistics.mean(values))]
        rows.append(row)
    return markdown(["kind", "iterations", "seeds", "clean %", "mean", "certified %, local", "mean"], rows)


def main() -> None:
    """Replace what stands between the marks in README.md."""
    readme = HERE / "README.md"
    report = json.loads((HERE / "measure.json").read_text())
    parts = [f"### {name}\n\n{estimates(measured)}" for name, measured in report["networks"].items()]
    text = readme.read_text()
    for mark, content in (("estimates", "\n\n".join(parts)), ("certified", certified(HERE))):
        start, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
        before, _, rest = text.partition(start)
        _, _, after = rest.partition(end)
        text = f"{before}{start}\n\n{content}\n\n{end}{after}"
    write_text(readme, text)


if __name__ == "__main__":
    main()
