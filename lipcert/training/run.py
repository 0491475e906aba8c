"""One training run: check, train, evaluate, write results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console

from lipcert.bounds import check_epsilon
from lipcert.data import ImageDataModule
from lipcert.system.configuration import refuse_unknown
from lipcert.system.plugins import load_plugins
from lipcert.training.build import build_evaluation, build_module, build_trainer, describe_training, quieten_lightning
from lipcert.training.checks import check_devices, check_processes, check_settings
from lipcert.training.evaluation import evaluate
from lipcert.training.locking import locked
from lipcert.training.logging.costs import Costs
from lipcert.training.logging.table import EpochRow
from lipcert.training.logging.wandb import finished
from lipcert.training.module import RobustClassifier
from lipcert.training.processes import is_first_process, leave_group
from lipcert.training.results import publish, results_of
from lipcert.training.resume.checkpoints import LAST, DamagedCheckpointError, read_state
from lipcert.training.resume.configuration import configuration_file, write_configuration
from lipcert.training.resume.interruption import HeedSignals, interruptible
from lipcert.training.resume.starting_point import (
    AUTO,
    Complete,
    Fresh,
    Resumable,
    completed,
    restore_folder,
    starting_point,
)


def run(config: DictConfig) -> float:
    """Train, evaluate and write `results.json`, from wherever the run stands; return the certified accuracy.

    All processes of a run call it; the first one writes.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    check(config)
    complete = completed(folder, config)
    if complete is not None:
        Console().print(f"This run is complete, nothing is left to do; its results are in {folder}", soft_wrap=True)
        return float(complete.results["certified_accuracy"])
    with locked(folder), interruptible(folder):
        state = starting_point(folder, config, describe_training(config))
        results = state.results if isinstance(state, Complete) else train_and_evaluate(config, folder, state)
    return float(results["certified_accuracy"])


def check(config: DictConfig) -> None:
    """Refuse settings that would fail once training is under way.

    Raises:
        ValueError: saying what was expected, what came and what to set.
    """
    hydra = HydraConfig.get()
    refuse_unknown(config)
    load_plugins(config.plugins)
    check_epsilon(config.epsilon)
    check_devices(config.trainer.devices, config.trainer.accelerator)
    check_processes(config, hydra.overrides.hydra, hydra.mode == RunMode.MULTIRUN)
    check_settings(config)


@finished()
def train_and_evaluate(config: DictConfig, folder: Path, state: Fresh | Resumable) -> dict[str, Any]:
    """Train from `state` on, evaluate, and publish the results from the first process; return them."""
    settings = build_evaluation(config)
    quieten_lightning()
    pl.seed_everything(config.seed, verbose=False)
    data = ImageDataModule(batch_size=config.batch_size, seed=config.seed, **config.data)
    module = build_module(config, data)
    costs = Costs()
    trainer = build_trainer(config, costs, EpochRow(), HeedSignals())
    if is_first_process() and (not configuration_file(folder).exists() or config.resume != AUTO):
        write_configuration(folder, config)
    checkpoint = restore_folder(folder, state)
    if state.epochs < config.schedule.epochs:
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    elif checkpoint is not None:
        costs.load_state_dict(read_state(checkpoint)["callbacks"][costs.state_key])
    load_weights(module, folder, config.evaluation.checkpoint)
    evaluated = evaluate(module.model.cpu(), data.test, config.epsilon, module.bound.name, settings)
    leave_group()
    if not is_first_process():
        return evaluated
    results = results_of(config, module, evaluated, costs)
    publish(results, folder, trainer.loggers)
    return results


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
