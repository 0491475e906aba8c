"""What a run leaves when it is over: `results.json`, its summary at the loggers, a table on the screen."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger
from rich.console import Console
from rich.table import Table

from lipcert.system.files import write_json
from lipcert.training.build import describe
from lipcert.training.logging.costs import Costs
from lipcert.training.logging.wandb import report_results
from lipcert.training.module import RobustClassifier
from lipcert.version import __version__

logger = logging.getLogger(__name__)


def results_of(config: DictConfig, module: RobustClassifier, evaluated: dict[str, Any], costs: Costs) -> dict[str, Any]:
    """Return the content of `results.json`: what the run is, how it was `evaluated`, what its training cost."""
    return {
        **describe(config),
        "method": module.method.name,
        "bound": str(module.bound.name),
        "seed": config.seed,
        "epsilon": config.epsilon,
        **evaluated,
        "seconds_per_epoch": costs.seconds / max(1, costs.epochs),
        "peak_memory_mb": costs.peak_memory_mb,
        "epochs": config.schedule.epochs,
        "lipcert_version": __version__,
    }


def publish(results: dict[str, Any], folder: Path, loggers: Iterable[Logger]) -> None:
    """Write the results of a run, hand them to its loggers, print them."""
    write_json(folder / "results.json", results)
    report_results(loggers, results)
    logger.info(
        "clean accuracy %.4f, certified accuracy %.4f by the %s bound",
        results["clean_accuracy"],
        results["certified_accuracy"],
        results["bound"],
    )
    print_results(results, folder)


def print_results(results: dict[str, Any], folder: Path) -> None:
    """Print the run's accuracies as a table."""
    table = Table(title=f"{results['model']} on {results['data']}, {results['method']}, {results['bound']} bound")
    table.add_column(f"at epsilon {results['epsilon']:.4g}")
    table.add_column(f"of {results['num_test']} test images", justify="right")
    table.add_row("clean accuracy", f"{results['clean_accuracy']:.1%}")
    if results["pgd_accuracy"] is not None:
        table.add_row("accuracy under PGD", f"{results['pgd_accuracy']:.1%}")
    if results["autoattack_accuracy"] is not None:
        attacked = f"under AutoAttack, first {results['autoattack_images']}"
        table.add_row(attacked, f"{results['autoattack_accuracy']:.1%}")
    for name, certified in results["certified_accuracy_by_bound"].items():
        table.add_row(f"certified, {name} bound", f"{certified:.1%}")
    table.add_row(f"the same as executed, {results['bound']} bound", f"{results['certified_accuracy_executed']:.1%}")
    failure = results["failure_probability"]
    table.add_row("failure probability of all certificates", f"{failure:.1e}" if failure else "0: exact norms")
    table.add_row("seconds an epoch", f"{results['seconds_per_epoch']:.2f}")
    console = Console()
    console.print(table)
    console.print(f"Everything of this run is in {folder}", soft_wrap=True)
