"""Builds what a run is made of from its configuration: network, module and trainer."""

import logging
import warnings
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.loggers import Logger

from lipcert.checkpoints.builders import builder_of, built
from lipcert.losses import Sparsity
from lipcert.system.errors import first_line
from lipcert.system.execution import multiply_in
from lipcert.system.schema import BoundConfig
from lipcert.training.logging.wandb import RunLogger
from lipcert.training.module import RobustClassifier
from lipcert.training.processes import environment_plugins
from lipcert.training.resume.checkpoints import AtomicCheckpoints
from lipcert.training.schedules import Schedule


def describe(config: DictConfig) -> dict[str, Any]:
    """Return what a checkpoint says of itself."""
    model = config.model
    description = {"data": config.data.name, "model": model.name, "activation": model.activation or "own"}
    if model.parametrization not in (None, "none"):
        description["parametrization"] = config.model.parametrization
    return description


def describe_training(config: DictConfig) -> dict[str, Any]:
    """Return what must not change when a run is resumed."""
    return {
        **describe(config),
        "method": config.method["_target_"].rsplit(".", 1)[-1],
        "bound": config.bound.name,
        "epsilon": config.epsilon,
        "batch_size": config.batch_size,
        "seed": config.seed,
    }


def build_module(config: DictConfig, image_shape: tuple[int, int, int], num_classes: int) -> RobustClassifier:
    """Build the network and its Lightning module.

    Raises:
        ValueError, UnsupportedLayerError: for a network that cannot be built, trained, or has other classes.
    """
    builder, arguments = builder_of(OmegaConf.to_container(config.model, resolve=True))  # type: ignore[arg-type]
    module = RobustClassifier(
        built(builder, arguments, image_shape, num_classes),
        method=instantiate(config.method),
        optimizer=instantiate(config.optimizer),
        schedule=Schedule(**config.schedule),
        image_shape=image_shape,
        epsilon=config.epsilon,
        bound=BoundConfig(**config.bound),
        sparsity=Sparsity(**config.sparsity),
        description=describe_training(config),
    )
    if module.origin.num_classes != num_classes:
        raise ValueError(
            f"The network of {builder} tells {module.origin.num_classes} classes apart, {config.data.name} has "
            f"{num_classes}; give it as many logits, for example from an argument `num_classes` of its builder."
        )
    module.origin = replace(module.origin, builder=builder, arguments=arguments)
    return module


def build_trainer(config: DictConfig, *bookkeeping: pl.Callback) -> pl.Trainer:
    """Build Lightning's trainer with the callbacks and loggers of the configuration, after those that every run has.

    Raises:
        ValueError: for settings that Lightning does not take.
    """
    callbacks = [instantiate(callback) for callback in config.callbacks.values()]
    settings: dict[str, Any] = OmegaConf.to_container(config.trainer, resolve=True)  # type: ignore[assignment]
    multiply_in(settings.pop("matmul"))
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # all that is read was written
    try:
        return pl.Trainer(
            **settings,
            max_epochs=config.schedule.epochs,
            callbacks=[*bookkeeping, *callbacks],
            plugins=[AtomicCheckpoints(), *environment_plugins()],
            logger=build_loggers(config),
            enable_progress_bar=any(isinstance(each, ProgressBar) for each in callbacks),
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            deterministic=True,
        )
    except (TypeError, MisconfigurationException) as error:
        raise ValueError(
            f"`trainer` has a setting that pl.Trainer does not take, or that lipcert sets: {error}"
        ) from error


def build_loggers(config: DictConfig) -> list[Logger]:
    """Return the loggers of the configuration; raise ValueError naming the package to install where one is missing."""
    loggers = []
    for name, settings in config.logger.items():
        try:
            loggers.append(instantiate(settings))
        except InstantiationException as error:
            cause = error.__cause__
            if not isinstance(cause, ImportError):
                raise
            missing = (
                f"logger={name} needs a package that is not installed ({first_line(cause)}); "
                f"install it with `pip install {name}`, or use logger=csv."
            )
            raise ValueError(missing if isinstance(cause, ModuleNotFoundError) else str(cause)) from error
        if isinstance(loggers[-1], RunLogger):
            loggers[-1].describe(config)
    return loggers


def quieten_lightning() -> None:
    """Silence what Lightning says of every run and what does not apply here."""
    for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # images lie in memory
        "Checkpoint directory .* exists and is not empty.*",  # `starting_point` has made sure of it
        ".*treespec, LeafSpec.*",  # torch deprecates what Lightning calls
        "The dirpath has changed.*",  # a resumed run has a folder of its own
        "It is recommended to use .self.log.'schedule/.*",  # the same in every process
        "Total length of `list` across ranks is zero.*",  # no validation split
    ):
        warnings.filterwarnings("ignore", message)
