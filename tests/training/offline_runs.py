"""Reads the offline runs of wandb back, with wandb's own inspector."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

ADDED = ("_runtime", "_step", "_timestamp", "_wandb.")
"""What wandb adds to rows and summaries."""


@dataclass
class OfflineRun:
    """What one file of wandb holds; a logged table's description is in the summary under keys joined by dots."""

    file: Path
    stated: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, str | None] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None

    def table(self, key: str) -> dict[str, Any]:
        """Return the content of a table that was logged."""
        return json.loads((self.file.parent / "files" / self.summary[f"{key}.path"]).read_text())


def offline_runs(folder: Path) -> list[OfflineRun]:
    """Return the runs in a run's directory, oldest first."""
    return [_read(file) for file in sorted((folder / "wandb").glob("offline-run-*/*.wandb"))]


@cache
def _read(file: Path) -> OfflineRun:
    run = OfflineRun(file)
    shown = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)],
        env={**os.environ, "HOME": str(file.parent / "tmp")},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    for line in shown.stdout.splitlines():
        record = json.loads(line)
        kind, content = record["type"], record.get(record["type"], {})
        if kind == "run":
            run.config = content.get("config", {}).get("update", {})
            run.stated = content
        elif kind == "metric":
            run.axes[content.get("glob_name") or content["name"]] = content.get("step_metric")
        elif kind == "history":
            run.rows.append({key: value for key, value in content["item"].items() if not key.startswith(ADDED)})
            run.steps.append(content["step"]["num"])
        elif kind == "summary":
            run.summary |= content["update"]
        elif kind == "exit":
            run.exit_code = content["exit_code"]
    return run
