"""Configurations of `lipcert.train`, each composed once, and what makes compositions of all commands cheaper.

A composition takes a third of a second. Hydra copies its store for it, reads every file and parses every
interpolation; a command composes twice, to see whether it sweeps and to run, and so does each job of a sweep.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import omegaconf
from hydra import compose, initialize_config_dir
from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, grammar_parser

from lipcert.system.configuration import config_folder, register

MODES = ("hydra.mode=RUN", "hydra.mode=MULTIRUN")
"""What Hydra adds to the overrides of a command once it has seen whether it sweeps."""


@cache
def keep_what_is_composed() -> None:
    """Let Hydra keep, in this process, what it would copy, read, parse or compose again."""
    patched: list[Any] = [ConfigStore, OmegaConf, ConfigLoaderImpl, defaults_list, omegaconf._utils, omegaconf.base]
    store, configurations, loader, defaults, *grammars = patched
    store.__deepcopy__ = lambda self, memo: self
    configurations.load = staticmethod(_reading_once(OmegaConf.load))
    loader._load_configuration_impl = _composing_once(ConfigLoaderImpl._load_configuration_impl)
    defaults._create_interpolation_map = _mapping_if_needed(defaults_list._create_interpolation_map)
    parse = cache(grammar_parser.parse)
    for each in grammars:
        each.parse = parse


def _reading_once(load: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return copies of what an open file's text has led to before."""
    pickled = cache(lambda text: pickle.dumps(load(io.StringIO(text))))  # several times as fast as deepcopy
    return lambda file: pickle.loads(pickled(file.read())) if isinstance(file, io.TextIOWrapper) else load(file)


def _mapping_if_needed(map_choices: Callable[..., DictConfig]) -> Callable[..., DictConfig]:
    """Map what is chosen only for lists of defaults that have an interpolation to look it up."""
    return lambda overrides, listed, self_added: (
        map_choices(overrides, listed, self_added)
        if any(each.is_interpolation() for each in listed)
        else OmegaConf.create()
    )


def _composing_once(compose_anew: Callable[..., DictConfig]) -> Callable[..., DictConfig]:
    """Let a command's second composition from the same overrides return the first one, once these are found legal."""
    kept: WeakKeyDictionary[ConfigLoaderImpl, dict[tuple[str, ...], DictConfig]] = WeakKeyDictionary()

    def composed_once(
        loader: ConfigLoaderImpl,
        config_name: str,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        earlier = kept.setdefault(loader, {})
        added = [each for each in overrides[-1:] if each in MODES and (*overrides[:-1],) in earlier]
        key = tuple(overrides[: len(overrides) - len(added)])
        if not from_shell or key not in earlier:
            config = compose_anew(loader, config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
            return earlier.setdefault(key, config) if from_shell else config
        if validate_sweep_overrides:
            parsed = OverridesParser.create().parse_overrides(overrides)
            loader.validate_sweep_overrides_legal(parsed, run_mode, from_shell)
        config = earlier.pop(key)
        for mode in added:
            config.hydra.mode = RunMode[mode.partition("=")[2]]
            config.hydra.overrides.hydra.append(mode)
        return config

    return composed_once


@cache
def composed(*overrides: str) -> DictConfig:
    """Return the read-only configuration that overrides lead to."""
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_folder(), version_base="1.3"):
        config = compose("train", overrides=list(overrides))
    OmegaConf.set_readonly(config, True)
    return config


def learn_to_compose() -> None:
    """Compose once: files are read then, and grammars know words. What was registered for it is forgotten again."""
    store = ConfigStore.instance()
    before = deepcopy(store.repo)
    composed()
    store.repo = before
    OmegaConf.clear_resolvers()
    register.cache_clear()
    composed.cache_clear()
