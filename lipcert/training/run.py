"""One training run: check, train, evaluate, write results."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ProgressBar
from rich.console import Console
from rich.table import Table

from lipcert.bounds import Bound, check_epsilon
from lipcert.data import ImageDataModule
from lipcert.losses import Sparsity
from lipcert.nn import build
from lipcert.system.configuration import refuse_unknown
from lipcert.system.files import write_json
from lipcert.system.plugins import load_plugins
from lipcert.training.checks import check_devices, check_processes, check_settings
from lipcert.training.configuration import configuration_file, write_configuration
from lipcert.training.costs import Costs
from lipcert.training.evaluation import EvaluationSettings, evaluate
from lipcert.training.interruption import HeedSignals, interruptible
from lipcert.training.locking import locked
from lipcert.training.loggers import build_loggers
from lipcert.training.module import BoundSettings, RobustClassifier
from lipcert.training.processes import environment_plugins, is_first_process, leave_group
from lipcert.training.resuming import AUTO, Complete, Fresh, Resumable, completed, settle, starting_point
from lipcert.training.schedules import Schedule
from lipcert.training.storage import LAST, DamagedCheckpointError, WholeCheckpoints, read_state
from lipcert.training.table import EpochRow
from lipcert.training.wandb_logger import finished
from lipcert.training.wandb_results import report_results
from lipcert.version import __version__

logger = logging.getLogger(__name__)


def describe(config: DictConfig) -> dict[str, Any]:
    """Return what a checkpoint says of itself."""
    description = {"data": config.data.name, "model": config.model.name, "activation": config.model.activation}
    if config.model.parametrization != "none":
        description["parametrization"] = config.model.parametrization
    return description


def describe_training(config: DictConfig) -> dict[str, Any]:
    """Return what must not change when a run is resumed."""
    target = str(config.method.get("_target_", "")).rsplit(".", 1)[-1]
    return {
        **describe(config),
        "method": target,
        "bound": config.bound.name,
        "epsilon": config.epsilon,
        "batch_size": config.batch_size,
        "seed": config.seed,
    }


def build_module(config: DictConfig, data: ImageDataModule) -> RobustClassifier:
    """Build the network and its Lightning module."""
    network = build(
        config.model.name,
        data.image_shape,
        data.num_classes,
        config.model.activation,
        config.model.threshold,
        config.model.parametrization,
    )
    return RobustClassifier(
        network,
        method=instantiate(config.method),
        optimizer=instantiate(config.optimizer),
        schedule=Schedule(**OmegaConf.to_container(config.schedule, resolve=True)),  # type: ignore[arg-type]
        image_shape=data.image_shape,
        epsilon=config.epsilon,
        bound=BoundSettings(**{**config.bound, "name": Bound(config.bound.name)}),
        sparsity=Sparsity(**config.sparsity),
        description=describe_training(config),
    )


def build_trainer(config: DictConfig, *bookkeeping: pl.Callback) -> pl.Trainer:
    """Build Lightning's trainer with the callbacks and loggers of the configuration, after those that every run has."""
    callbacks = [instantiate(callback) for callback in config.callbacks.values()]
    return pl.Trainer(
        **OmegaConf.to_container(config.trainer, resolve=True),  # type: ignore[arg-type]
        max_epochs=config.schedule.epochs,
        callbacks=[*bookkeeping, *callbacks],
        plugins=[WholeCheckpoints(), *environment_plugins()],
        logger=build_loggers(config),
        enable_progress_bar=any(isinstance(each, ProgressBar) for each in callbacks),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        deterministic=True,
    )


def quieten_lightning() -> None:
    """Silence what Lightning says of every run and what does not apply here."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # images lie in memory
        "Checkpoint directory .* exists and is not empty.*",  # `starting_point` has made sure of it
        ".*treespec, LeafSpec.*",  # torch deprecates what Lightning calls
        "The dirpath has changed.*",  # a resumed run has a folder of its own
        "It is recommended to use .self.log.'schedule/.*",  # the same in every process
        "Total length of `list` across ranks is zero.*",  # no validation split
    ):
        warnings.filterwarnings("ignore", message)


def load_weights(module: RobustClassifier, folder: Path, which: str) -> None:
    """Load the checkpoint that is to be evaluated, `last` or `best`.

    Raises:
        ValueError: where it is missing or damaged.
    """
    path = folder / "checkpoints" / f"{which}.ckpt"
    try:
        module.load_state_dict(read_state(path)["state_dict"])
    except (FileNotFoundError, DamagedCheckpointError) as error:
        raise ValueError(
            f"{path}, which is to be evaluated, is missing or damaged ({error}); the weights in "
            f"{path.with_name(LAST).name} can be certified by python -m lipcert.certify."
        ) from error


def run(config: DictConfig) -> float:
    """Train, evaluate and write `results.json`, from wherever the run stands; return the certified accuracy.

    All processes of a run call it; the first one writes.
    """
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    refuse_unknown(config)
    load_plugins(config.plugins)
    check_epsilon(config.epsilon)
    check_devices(config.trainer.devices, config.trainer.accelerator)
    check_processes(config, hydra.overrides.hydra, hydra.mode == RunMode.MULTIRUN)
    check_settings(config)
    complete = completed(folder, config)
    if complete is not None:
        Console().print(f"This run is complete, nothing is left to do; its results are in {folder}", soft_wrap=True)
        return float(complete.results["certified_accuracy"])
    with locked(folder), interruptible(folder):
        state = starting_point(folder, config, describe_training(config))
        results = state.results if isinstance(state, Complete) else _run(config, folder, state)
    return float(results["certified_accuracy"])


@finished()
def _run(config: DictConfig, folder: Path, state: Fresh | Resumable) -> dict[str, Any]:
    bounds = [str(Bound(name)) for name in config.evaluation.bounds]
    quieten_lightning()
    pl.seed_everything(config.seed, verbose=False)
    data = ImageDataModule(batch_size=config.batch_size, seed=config.seed, **config.data)
    module = build_module(config, data)
    costs = Costs()
    trainer = build_trainer(config, costs, EpochRow(), HeedSignals())
    first = is_first_process()
    if first and (not configuration_file(folder).exists() or config.resume != AUTO):
        write_configuration(folder, config)
    checkpoint = settle(folder, state)
    if state.epochs < config.schedule.epochs:
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    elif checkpoint is not None:
        costs.load_state_dict(read_state(checkpoint)["callbacks"][costs.state_key])
    load_weights(module, folder, config.evaluation.checkpoint)
    evaluated = evaluate(
        module.model.cpu(),
        data.test,
        config.epsilon,
        module.bound.name,
        EvaluationSettings(
            bounds,
            config.evaluation.lanczos_steps,
            config.evaluation.pgd_steps,
            config.evaluation.batch_size,
            config.evaluation.clip_input,
            config.evaluation.lipschitz_images,
            config.seed,
            config.evaluation.autoattack_images,
        ),
    )
    leave_group()
    if not first:
        return evaluated
    results = {
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
    write_json(folder / "results.json", results)
    report_results(trainer.loggers, results)
    logger.info(
        "clean accuracy %.4f, certified accuracy %.4f by the %s bound",
        results["clean_accuracy"],
        results["certified_accuracy"],
        results["bound"],
    )
    _report(results, folder)
    return results


def _report(results: dict[str, Any], folder: Path) -> None:
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
