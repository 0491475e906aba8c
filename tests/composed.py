"""Configurations of `lipcert.train`, each composed once: it takes a third of a second."""

from __future__ import annotations

from functools import cache

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from lipcert.system.configuration import config_folder, register


def share_the_store() -> None:
    """Let each composition read Hydra's store; it takes a fifth of its time to copy it, and what is read is copied."""
    ConfigStore.__deepcopy__ = lambda store, memo: store  # type: ignore[attr-defined]


@cache
def composed(*overrides: str) -> DictConfig:
    """Return the read-only configuration that overrides lead to."""
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_folder(), version_base="1.3"):
        config = compose("train", overrides=list(overrides))
    OmegaConf.set_readonly(config, True)
    return config
