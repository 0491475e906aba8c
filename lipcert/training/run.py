"""One training run: check, train, evaluate, write results."""

import logging
import shlex
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from lipcert.bounds import Bound
from lipcert.data import ImageDataModule
from lipcert.system.configuration import OURS
from lipcert.system.execution import covered_device
from lipcert.system.files import write_json
from lipcert.training.build import build_module, build_trainer, describe, describe_training, quieten_lightning
from lipcert.training.callbacks import Costs
from lipcert.training.checks import check
from lipcert.training.evaluation import EvaluationSettings, evaluate
from lipcert.training.logging.table import EpochRow
from lipcert.training.logging.wandb import RunLogger, finished
from lipcert.training.module import RobustClassifier
from lipcert.training.processes import is_first_process, leave_group, locked
from lipcert.training.resume.checkpoints import LAST, DamagedCheckpointError, read_state
from lipcert.training.resume.interruption import HeedSignals, interruptible
from lipcert.training.resume.starting_point import State, completed, restore_folder, starting_point, write_configuration
from lipcert.version import __version__, commit

logger = logging.getLogger(__name__)


def run(config: DictConfig) -> float:
    """Train, evaluate and write `results.json`, from wherever the run stands; return the certified accuracy.

    All processes of a run call it; the first one writes.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    check(config)
    results = completed(folder, config)
    if results is not None:
        Console().print(f"This run is complete, nothing is left to do; its results are in {folder}", soft_wrap=True)
    else:
        with locked(folder), interruptible(folder):
            results = completed(folder, config)  # another process may have been faster
            if results is None:
                state = starting_point(folder, config, describe_training(config))
                results = train_and_evaluate(config, folder, state)
    return float(results["certified_accuracy"])


@finished()
def train_and_evaluate(config: DictConfig, folder: Path, state: State) -> dict[str, Any]:
    """Train from `state` on, evaluate, and publish the results from the first process; return them."""
    settings = EvaluationSettings(**config.evaluation, seed=config.seed)
    quieten_lightning()
    pl.seed_everything(config.seed, verbose=False)
    settings_of_data: Any = OmegaConf.to_container(config.data, resolve=True)
    data = ImageDataModule(batch_size=config.batch_size, seed=config.seed, **settings_of_data)
    module = build_module(config, data.image_shape, data.num_classes)
    costs = Costs()
    trainer = build_trainer(config, costs, EpochRow(), HeedSignals())
    write_configuration(folder, config)
    checkpoint = restore_folder(folder, state)
    if state.epochs < config.schedule.epochs:
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    elif checkpoint is not None:
        costs.load_state_dict(read_state(checkpoint)["callbacks"][costs.state_key])
    load_weights(module, folder, settings.checkpoint)
    device = covered_device(trainer.strategy.root_device)
    evaluated = evaluate(
        module.to(device).layers, data.test.to(device), config.epsilon, Bound(config.bound.name), settings
    )
    leave_group()
    if not is_first_process():
        return evaluated
    results = publish(config, folder, module, evaluated, costs, data)
    for each in trainer.loggers:
        if isinstance(each, RunLogger):
            each.report(results)
    return results


def load_weights(module: RobustClassifier, folder: Path, which: str) -> None:
    """Load the checkpoint that is to be evaluated, `last` or `best`; raise ValueError if it is missing or damaged."""
    path = folder / "checkpoints" / f"{which}.ckpt"
    try:
        module.load_state_dict(read_state(path)["state_dict"])
    except (FileNotFoundError, DamagedCheckpointError) as error:
        raise ValueError(
            f"{path}, which is to be evaluated, is missing or damaged ({error}); the weights in "
            f"{path.with_name(LAST).name} can be certified by python -m lipcert.certify."
        ) from error


def publish(
    config: DictConfig,
    folder: Path,
    module: RobustClassifier,
    evaluated: dict[str, Any],
    costs: Costs,
    data: ImageDataModule,
) -> dict[str, Any]:
    """Write `results.json`: what the run is, how it was `evaluated`, what its training cost; print and return it.

    `data`: what it was trained on; of extra images it says which, of images that are absent how many, with its name.
    """
    extra = data.state_dict()["extra"]
    results = {
        **describe(config),
        "data": data.called,
        "method": module.method.name,
        "bound": config.bound.name,
        "seed": config.seed,
        "epsilon": config.epsilon,
        **evaluated,
        "seconds_per_epoch": costs.seconds / max(1, costs.epochs),
        "peak_memory_mb": costs.peak_memory_mb,
        "epochs": costs.epochs,
        **({"extra": extra} if extra else {}),
        "lipcert_version": __version__,
        "torch_version": torch.__version__,
        "commit": commit(),
    }
    write_json(folder / "results.json", results)
    logger.info(
        "clean accuracy %.4f, certified accuracy %.4f by the %s bound",
        results["clean_accuracy"],
        results["certified_accuracy"],
        results["bound"],
    )
    print_results(results, folder, module.origin.builder)
    return results


def print_results(results: dict[str, Any], folder: Path, builder: str | None) -> None:
    """Print the run's accuracies as a table, and what to type next; code that builds the network has to be named."""
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
    named = [] if builder in (None, *OURS) else [f"builder={builder}"]
    for words in (["lipcert.certify", str(folder), *named], ["lipcert.report", str(folder)]):
        console.print(f"Next: python -m {shlex.join(words)}", soft_wrap=True, markup=False)
