"""One training run: check, train, evaluate, write results."""

from __future__ import annotations

import logging
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lipcert.bounds import Bound, WarmStart, check_epsilon
from lipcert.commands import write_json, write_text
from lipcert.data import ImageDataModule
from lipcert.losses import Sparsity
from lipcert.nn import build
from lipcert.training.checks import check_devices, check_run_directory, check_settings, epochs_done
from lipcert.training.evaluation import EvaluationSettings, evaluate
from lipcert.training.module import RobustClassifier
from lipcert.training.schedules import Schedule
from lipcert.training.warm_start import announce
from lipcert.version import __version__

logger = logging.getLogger(__name__)


def write_configuration(folder: Path, config: DictConfig) -> None:
    """Write what Hydra usually does: `.hydra/config.yaml`, `overrides.yaml`, `hydra.yaml`."""
    hydra_config = HydraConfig.get()
    target = folder / ".hydra"
    target.mkdir(exist_ok=True)
    write_text(target / "config.yaml", OmegaConf.to_yaml(config))
    write_text(target / "overrides.yaml", OmegaConf.to_yaml(hydra_config.overrides.task))
    write_text(
        target / "hydra.yaml", OmegaConf.to_yaml(OmegaConf.create({"hydra": OmegaConf.to_container(hydra_config)}))
    )


def describe(config: DictConfig) -> dict[str, Any]:
    """Return what a checkpoint says of itself."""
    return {"data": config.data.name, "model": config.model.name, "activation": config.model.activation}


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
        config.model.name, data.image_shape, data.num_classes, config.model.activation, config.model.threshold
    )
    return RobustClassifier(
        network,
        method=instantiate(config.method),
        optimizer=instantiate(config.optimizer),
        schedule=Schedule(**OmegaConf.to_container(config.schedule, resolve=True)),  # type: ignore[arg-type]
        image_shape=data.image_shape,
        num_classes=data.num_classes,
        epsilon=config.epsilon,
        bound=Bound(config.bound.name),
        iterations=config.bound.iterations,
        precision=config.bound.precision,
        warm_start=WarmStart(config.warm_start.name, len(data.train)),
        sparsity=Sparsity(config.sparsity.weight, config.sparsity.threshold_weight),
        clip_input=config.bound.clip_input,
        description=describe_training(config),
    )


def build_trainer(config: DictConfig) -> pl.Trainer:
    """Build Lightning's trainer with the callbacks and loggers of the configuration."""
    callbacks = [instantiate(callback) for callback in config.callbacks.values()]
    loggers = [instantiate(each) for each in config.logger.values()]
    return pl.Trainer(
        **OmegaConf.to_container(config.trainer, resolve=True),  # type: ignore[arg-type]
        max_epochs=config.schedule.epochs,
        callbacks=callbacks,
        logger=loggers,
        enable_progress_bar="progress" in config.callbacks,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        deterministic=True,
    )


def quieten_lightning() -> None:
    """Silence what Lightning says of every run and what does not apply here."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # images lie in memory
        "Experiment logs directory .* exists and is not empty.*",  # `check_run_directory` has made sure of it
        ".*treespec, LeafSpec.*",  # torch deprecates what Lightning calls
        "The dirpath has changed.*",  # a resumed run has a folder of its own
        "Total length of `list` across ranks is zero.*",  # no validation split
    ):
        warnings.filterwarnings("ignore", message)


def peak_memory_mb() -> float:
    """Return the most memory this process has held: on the GPU if it used one, else in all."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def load_weights(module: RobustClassifier, folder: Path, which: str) -> None:
    """Load the checkpoint that is to be evaluated, `last` or `best`."""
    checkpoint = torch.load(folder / "checkpoints" / f"{which}.ckpt", map_location="cpu", weights_only=True)
    module.load_state_dict(checkpoint["state_dict"])


def run(config: DictConfig) -> float:
    """Train, evaluate and write `results.json`; return the certified accuracy."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    check_run_directory(folder)
    check_epsilon(config.epsilon)
    check_devices(config.trainer.devices, config.trainer.accelerator)
    check_settings(config)
    first_epoch = epochs_done(config.resume, describe_training(config), config.schedule.epochs)
    bounds = [str(Bound(name)) for name in config.evaluation.bounds]
    quieten_lightning()
    pl.seed_everything(config.seed, verbose=False)
    data = ImageDataModule(batch_size=config.batch_size, seed=config.seed, **config.data)
    module = build_module(config, data)
    trainer = build_trainer(config)
    announce(module.norms.warm_start, trainer.num_devices)
    write_configuration(folder, config)
    started = time.perf_counter()
    trainer.fit(module, data, ckpt_path=config.resume, weights_only=True)
    seconds = time.perf_counter() - started
    if not trainer.is_global_zero:
        return float("nan")
    load_weights(module, folder, config.evaluation.checkpoint)
    evaluated = evaluate(
        module.model.cpu(),
        data.test,
        config.epsilon,
        module.bound,
        EvaluationSettings(
            bounds,
            config.evaluation.lanczos_steps,
            config.evaluation.pgd_steps,
            config.evaluation.batch_size,
            config.evaluation.clip_input,
            config.evaluation.lipschitz_images,
        ),
    )
    results = {
        **describe(config),
        "method": module.method.name,
        "bound": str(module.bound),
        "seed": config.seed,
        "epsilon": config.epsilon,
        **evaluated,
        "seconds_per_epoch": seconds / max(1, config.schedule.epochs - first_epoch),
        "peak_memory_mb": peak_memory_mb(),
        "epochs": config.schedule.epochs,
        "lipcert_version": __version__,
    }
    write_json(folder / "results.json", results)
    logger.info(
        "clean accuracy %.4f, certified accuracy %.4f by the %s bound",
        results["clean_accuracy"],
        results["certified_accuracy"],
        results["bound"],
    )
    _report(results, folder)
    return float(results["certified_accuracy"])


def _report(results: dict[str, Any], folder: Path) -> None:
    """Print the run's accuracies as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{results['model']} on {results['data']}, {results['method']}, {results['bound']} bound")
    table.add_column(f"at epsilon {results['epsilon']:.4g}")
    table.add_column(f"of {results['num_test']} test images", justify="right")
    table.add_row("clean accuracy", f"{results['clean_accuracy']:.1%}")
    if results["pgd_accuracy"] is not None:
        table.add_row("accuracy under PGD", f"{results['pgd_accuracy']:.1%}")
    for name, certified in results["certified_accuracy_by_bound"].items():
        table.add_row(f"certified, {name} bound", f"{certified:.1%}")
    failure = results["failure_probability"]
    table.add_row("failure probability of all certificates", f"{failure:.1e}" if failure else "0: exact norms")
    table.add_row("seconds an epoch", f"{results['seconds_per_epoch']:.2f}")
    console = Console()
    console.print(table)
    console.print(f"Everything of this run is in {folder}", soft_wrap=True)
