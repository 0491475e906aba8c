"""`metrics.csv`: a row an epoch, through any number of interruptions."""

import csv
import io
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers.logger import Logger

from lipcert.system.files import write_text
from lipcert.training.processes import is_first_process

METRICS = "metrics.csv"

Row = dict[str, str]


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a table, without cells that are empty and rows that were not written to their end."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    rows = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
    whole = [{key: cell for key, cell in row.items() if key and cell} for row in rows]
    return [row for row in whole if row.get("step", "").isdigit()]


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write a table as a whole, rows of the same step joined, columns sorted by name."""
    by_step: dict[str, Row] = {}
    for row in rows:
        by_step.setdefault(row["step"], {}).update(row)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, sorted(set().union(*rows)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(by_step.values())
    write_text(path, text.getvalue())


def rewind(path: Path, steps: int, last: Mapping[str, float]) -> None:
    """Bring a table to where a checkpoint stands, after so many optimizer `steps`; without rows the file is removed.

    Later rows are dropped, as they will be written again; `last`, the row of the checkpoint's epoch, which is logged
    just after the checkpoint, is added where it is missing.
    """
    rows = [row for row in read_rows(path) if int(row["step"]) < steps]
    expected = {key: _cell(value) for key, value in last.items()}
    if expected and not any(row.items() >= expected.items() for row in rows):
        rows.append(expected)
    if rows:
        write_rows(path, rows)
    else:
        path.unlink(missing_ok=True)


def _cell(value: Any) -> str:
    return str(value.item() if isinstance(value, torch.Tensor) else value)


class MetricsTable(Logger):
    """Logs into `metrics.csv`, going on below the rows that are there; Lightning's CSVLogger deletes them."""

    name = version = ""

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self._path = Path(save_dir) / METRICS

    @property
    def save_dir(self) -> str:
        return str(self._path.parent)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the configuration is in `.hydra/config.yaml`."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a row; a run logs a few an epoch, so the table is written anew."""
        if is_first_process():
            row = {key: _cell(value) for key, value in {**metrics, "step": step or 0}.items()}
            write_rows(self._path, [*read_rows(self._path), row])


class EpochRow(Callback):
    """Puts the row of an epoch into its checkpoint: Lightning logs it only after the checkpoint is written."""

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        logged = trainer._logger_connector.metrics["log"]  # what Lightning is about to hand to the loggers
        row = {key: float(value) for key, value in logged.items()}
        checkpoint["metrics"] = {"epoch": trainer.current_epoch, "step": trainer.global_step - 1, **row}
