"""Reports `results.json` to Weights & Biases: its content as summary, its main figures as a table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pytorch_lightning.loggers import Logger

from lipcert.training.wandb_logger import RunLogger

TABLE = "results"
"""Key of the table."""

COLUMNS = ("run", "quantity", "of", "value")

QUANTITIES = {
    "clean_accuracy": "clean accuracy",
    "pgd_accuracy": "accuracy under PGD",
    "autoattack_accuracy": "accuracy under PGD and AutoAttack",
    "global_lipschitz": "global Lipschitz bound",
    "local_lipschitz_mean": "mean local Lipschitz bound",
}
PARTS = {
    "certified_accuracy_by_bound": "certified accuracy",
    "varying_fraction": "varying fraction",
}


def results_rows(run: str, results: dict[str, Any]) -> list[tuple[str, str, str, float]]:
    """Return the rows of the table: whole figures, certified accuracy by bound, varying fraction by layer."""
    whole = [(run, label, "", results[key]) for key, label in QUANTITIES.items() if results.get(key) is not None]
    parts = [(run, label, part, value) for key, label in PARTS.items() for part, value in results.get(key, {}).items()]
    return whole + parts


def report_results(loggers: Iterable[Logger], results: dict[str, Any]) -> None:
    """Put the results of a finished run where it was logged to W&B."""
    for each in loggers:
        if isinstance(each, RunLogger):
            import wandb

            run = each.experiment
            run.summary.update(results)
            rows = [list(row) for row in results_rows(run.name, results)]
            run.log({TABLE: wandb.Table(columns=list(COLUMNS), data=rows)})
