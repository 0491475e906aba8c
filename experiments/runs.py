"""The table of runs: a line a run in `runs.jsonl`, a line an epoch of a run in `metrics.csv`.

A run is named EXPERIMENT/NAME. Its overrides and commit determine its configuration, so that none is kept. Both files
are sorted by name; a run that is added or made anew changes its own lines alone.
"""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lipcert.system.files import write_text

HERE = Path(__file__).parent
TABLE, METRICS = "runs.jsonl", "metrics.csv"


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        name: EXPERIMENT/NAME, NAME ending in `_seedN` where there is more than one seed to expect.
        commit: of lipcert, that trained and evaluated it.
        overrides: what was typed behind `python -m lipcert.train`, or composed by its sweep.
        results: of `results.json`.
        metrics: rows of its own `metrics.csv`, the cells as they were written.
        log: lines of `train.log`.
        records: what `lipcert.certify` proved of the network later: `certificate.json` by the record's folder.
    """

    name: str
    commit: str
    overrides: tuple[str, ...]
    results: Mapping[str, Any]
    metrics: tuple[Mapping[str, str], ...] = ()
    log: tuple[str, ...] = ()
    records: Mapping[str, Any] = field(default_factory=dict)

    @property
    def experiment(self) -> str:
        """The part of the name before the last slash."""
        return self.name.rpartition("/")[0]

    @property
    def row(self) -> str:
        """What runs share that differ in their seed alone."""
        return self.name.rpartition("/")[2].partition("_seed")[0]

    @property
    def command(self) -> str:
        """What repeats it, at its commit."""
        return shlex.join(["python", "-m", "lipcert.train", *self.overrides])

    def typed(self, key: str) -> str | None:
        """Return the value of an override, None where there is none."""
        found = [value for name, _, value in (each.partition("=") for each in self.overrides) if name == key]
        return found[-1] if found else None


def read(folder: Path = HERE) -> list[Run]:
    """Return all runs of the table in a folder, by name."""
    curves: dict[str, list[dict[str, str]]] = {}
    with (folder / METRICS).open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            curves.setdefault(line.pop("run"), []).append(line)
    runs = []
    for text in (folder / TABLE).read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        rows = curves.get(line["run"], [])
        columns = [name for name in (rows[0] if rows else ()) if any(row[name] for row in rows)]
        runs.append(
            Run(
                line["run"],
                line["commit"],
                tuple(line["overrides"]),
                line["results"],
                tuple({name: row[name] for name in columns} for row in rows),
                tuple(line["log"]),
                line.get("records", {}),
            )
        )
    return runs


def write(runs: Iterable[Run], folder: Path = HERE) -> None:
    """Write both files, sorted by name.

    Raises:
        ValueError: if two runs share a name.
    """
    ordered = sorted(runs, key=lambda run: run.name)
    names = [run.name for run in ordered]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"Expected one run a name, got two called {twice}; give one of them another name.")
    lines = [json.dumps(_line(run), ensure_ascii=False) for run in ordered]
    write_text(folder / METRICS, to_csv([{"run": run.name, **row} for run in ordered for row in run.metrics]))
    write_text(folder / TABLE, "".join(f"{line}\n" for line in lines))


def to_csv(rows: Iterable[Mapping[str, str]]) -> str:
    """Return rows as CSV text: `run` first where there is one, the other columns by name, absent cells empty."""
    rows = list(rows)
    columns = sorted({name for row in rows for name in row}, key=lambda name: (name != "run", name))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _line(run: Run) -> dict[str, Any]:
    records = {"records": run.records} if run.records else {}
    overrides = {"run": run.name, "commit": run.commit, "overrides": run.overrides}
    return {**overrides, "results": run.results, **records, "log": run.log}
