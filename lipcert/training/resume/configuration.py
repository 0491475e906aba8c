"""The configuration a run leaves in `.hydra/`, and whether a later start asks for the same run."""

from __future__ import annotations

from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lipcert.system.files import write_text
from lipcert.system.overrides import NOT_COMPARED, by_dotted_key, is_within
from lipcert.system.schema import TrainConfig


def configuration_file(folder: Path) -> Path:
    """Return where a run keeps its configuration."""
    return folder / ".hydra" / "config.yaml"


def write_configuration(folder: Path, config: DictConfig) -> None:
    """Write what Hydra usually does: `.hydra/config.yaml`, `overrides.yaml`, `hydra.yaml`."""
    hydra_config = HydraConfig.get()
    target = folder / ".hydra"
    target.mkdir(exist_ok=True)
    write_text(target / "overrides.yaml", OmegaConf.to_yaml(hydra_config.overrides.task))
    write_text(
        target / "hydra.yaml", OmegaConf.to_yaml(OmegaConf.create({"hydra": OmegaConf.to_container(hydra_config)}))
    )
    write_text(configuration_file(folder), OmegaConf.to_yaml(config))  # last: where it stands, the others do


def check_same_run(folder: Path, config: DictConfig) -> None:
    """Make sure that a folder's run was started with the configuration of this one.

    Settings that a run of an earlier version did not know have their defaults there; those that are gone count where
    they asked for what is gone with them.

    Raises:
        ValueError: naming the keys that differ, or where there is no configuration to compare with.
    """
    path = configuration_file(folder)
    try:
        earlier = OmegaConf.load(path)
    except (FileNotFoundError, yaml.YAMLError) as error:
        raise ValueError(
            f"{folder} holds a run, but no readable {path.relative_to(folder)} to compare with; go on in a new folder "
            f"with resume={folder / 'checkpoints' / 'last.ckpt'}."
        ) from error
    here = _leaves(config)
    written = _translated(_leaves(earlier))
    there = {**_defaults(), **written}
    absent = "absent"
    differing = [
        f"{key} ({there.get(key, absent)} there, {here.get(key, absent)} here)"
        for key in sorted(written.keys() | here.keys())
        if there.get(key, absent) != here.get(key, absent)
    ]
    if differing:
        raise ValueError(
            f"{folder} holds a run with other settings: {', '.join(differing)}. "
            "Set them as they were, or choose another hydra.run.dir (hydra.sweep.dir)."
        )


def _translated(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of an earlier version in the words of this one."""
    today = dict(settings)
    if today.get("warm_start.name") == "shared":  # as is done now
        del today["warm_start.name"]
    economy = today.pop("bound.economy", None)  # steps between measurements; 0 also let gradients flow through boxes
    if economy is not None:
        today |= {"bound.skip_every": economy, "bound.box_gradients": economy == 0}
    return today


def _defaults() -> dict[str, Any]:
    """Return the settings that have a default in the schema, by dotted key."""
    groups = {name: kind for name, kind in get_type_hints(TrainConfig).items() if is_dataclass(kind)}
    named = {name: OmegaConf.to_container(OmegaConf.structured(kind)) for name, kind in groups.items()}
    return {key: default for key, default in by_dotted_key(named).items() if default != MISSING}


def _leaves(config: Any) -> dict[str, Any]:
    """Return the values that matter by dotted key, interpolations resolved."""
    try:
        keys = [key for key in by_dotted_key(OmegaConf.to_container(config)) if not is_within(key, NOT_COMPARED)]
        return {key: OmegaConf.select(config, key) for key in keys}
    except OmegaConfBaseException as error:
        raise ValueError(f"The configuration of the earlier run cannot be read: {error}") from error
