"""Command lines of Hydra applications: composed, and checked as far as it goes without data."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def compose(name: str, words: list[str]) -> None:
    """Compose the first and the last job of a command line, and check what would only fail later."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from lipcert.commands.application import with_lists
    from lipcert.system.configuration import config_folder, register
    from lipcert.system.overrides import for_hydra

    register()
    arguments = words[words.index(f"lipcert.{name}") + 1 :]
    overrides = for_hydra(with_lists(arguments) if name != "train" else arguments)
    if "--config-dir" in overrides:
        place = overrides.index("--config-dir")
        folder = Path(overrides[place + 1]).resolve()
        overrides[place : place + 2] = [f"hydra.searchpath=[file://{folder}]"]
    overrides = [each for each in overrides if each != "-m"]
    parsed = OverridesParser.create().parse_overrides(overrides)
    jobs = [
        tuple(
            f"{each.get_key_element()}={list(each.sweep_string_iterator())[position]}"
            if each.is_sweep_override()
            else str(each.input_line)
            for each in parsed
        )
        for position in (0, -1)
    ]
    for job in dict.fromkeys(jobs):  # the first is the last where nothing is swept
        with initialize_config_dir(config_folder(), version_base="1.3"):
            check_job(name, hydra_compose(name, overrides=list(job)))


def check_job(name: str, config: Any) -> None:
    """Check a job's configuration as far as it goes without data."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from lipcert.training.checks import check_settings

    kept = [str(key) for key in config if key not in ("callbacks", "logger")]  # these name the run's folder
    values: Any = OmegaConf.to_container(OmegaConf.masked_copy(config, kept), resolve=True, throw_on_missing=True)
    if name != "train":
        return
    import torch

    from lipcert.bounds import Bound
    from lipcert.checkpoints.builders import builder_of, built
    from lipcert.system.plugins import load_plugins
    from lipcert.training.schedules import Schedule

    load_plugins(config.plugins)
    check_settings(config)
    instantiate(config.method)
    Schedule(**values["schedule"])
    Bound(config.bound.name)
    if config.model.builder is None:  # what pages call my_network is not here
        with torch.device("meta"):
            built(*builder_of(values["model"]), (3, 64, 64), 10)
