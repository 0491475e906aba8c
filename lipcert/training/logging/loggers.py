"""Builds the loggers of a run, and names it where many are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger

from lipcert.training.logging.wandb import Identity, RunLogger, earlier_id

LONGEST_GROUP = 128
"""Most characters that W&B keeps of a group."""


def build_loggers(config: DictConfig) -> list[Logger]:
    """Return the loggers of the configuration.

    Raises:
        ValueError: naming the package to install where one is missing.
    """
    loggers = [_build(name, settings) for name, settings in config.logger.items()]
    for each in loggers:
        if isinstance(each, RunLogger):
            each.describe(identity(config), _plain(config))
    return loggers


def _build(name: str, settings: DictConfig) -> Logger:
    try:
        return instantiate(settings)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, ModuleNotFoundError):
            raise ValueError(
                f"logger={name} needs a package that is not installed ({str(cause).splitlines()[0]}); "
                f"install it with `pip install {name}`, or use logger=csv."
            ) from error
        if isinstance(cause, ImportError):
            raise ValueError(str(cause)) from error
        raise


def identity(config: DictConfig) -> Identity:
    """Return what the run of the current Hydra job is called."""
    hydra = HydraConfig.get()
    parts = (config.data.name, config.model.name, instantiate(config.method).name, config.bound.name)
    sparsity = f"_sparsity{config.sparsity.weight:g}" if config.sparsity.weight else ""
    return Identity(
        name="_".join(parts) + f"{sparsity}_seed{config.seed}",
        group=hydra.sweep.dir[-LONGEST_GROUP:] if hydra.mode is RunMode.MULTIRUN else None,
        tags=tuple(dict.fromkeys((*parts[:2], config.model.activation, *parts[2:]))),
        id=earlier_id(Path(hydra.runtime.output_dir), config.resume),
    )


def _plain(config: DictConfig) -> Any:
    """Return the whole configuration with every interpolation carried out."""
    return OmegaConf.to_container(config, resolve=True)
