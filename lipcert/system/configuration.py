"""What Hydra is told: the folder of the configuration files, schema and resolvers; unknown settings are refused."""

from __future__ import annotations

import difflib
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from lipcert.system.job_names import job_folder, sweep_folder
from lipcert.system.schema import BenchmarkConfig, CertifyConfig, MeasureConfig, SoundnessConfig, TrainConfig

OPEN = ("trainer",)
"""Groups that take more settings than the schema names: Lightning's trainer knows its own."""


def unknown_setting(name: str, schema: Any) -> str:
    """Return a sentence about a setting, by its dotted name, that is none of its group's `schema`."""
    group, dot, key = name.rpartition(".")
    known = [each.name for each in fields(schema)]
    alike = difflib.get_close_matches(key, known, 1)
    hint = f"did you mean `{group}{dot}{alike[0]}`?" if alike else f"expected one of {', '.join(known)}."
    return f"There is no setting `{name}`: {hint}"


def refuse_unknown(config: DictConfig, group: str = "") -> None:
    """Refuse settings that the schema does not know, which `+KEY=VALUE` adds.

    Raises:
        ValueError: for the first of them, with the known setting that is spelt most alike.
    """
    schema = OmegaConf.get_type(config)
    if group in OPEN or not is_dataclass(schema):
        return
    for key in map(str, config):
        name = f"{group}.{key}" if group else key
        if key not in {each.name for each in fields(schema)}:
            raise ValueError(unknown_setting(name, schema))
        if not OmegaConf.is_missing(config, key) and isinstance(config[key], DictConfig):
            refuse_unknown(config[key], name)


def config_folder() -> str:
    """Return the folder of the configuration files: inside an installed package, else the repository's."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "conf"
    return str(packaged if packaged.is_dir() else package.parent / "conf")


def register() -> None:
    """Make the schema and the resolvers known to Hydra and OmegaConf."""
    ConfigStore.instance().store(name="schema", node=TrainConfig)
    ConfigStore.instance().store(name="benchmark_schema", node=BenchmarkConfig)
    ConfigStore.instance().store(name="certify_schema", node=CertifyConfig)
    ConfigStore.instance().store(name="soundness_schema", node=SoundnessConfig)
    ConfigStore.instance().store(name="measure_schema", node=MeasureConfig)
    OmegaConf.register_new_resolver("half", lambda number: float(number) / 2, replace=True)
    OmegaConf.register_new_resolver("times", lambda first, second: float(first) * float(second), replace=True)
    OmegaConf.register_new_resolver(
        "when", lambda value, expected, then, otherwise: then if value == expected else otherwise, replace=True
    )
    OmegaConf.register_new_resolver(
        "monitored", lambda held_out: "val/certified_accuracy" if int(held_out) else None, replace=True
    )
    OmegaConf.register_new_resolver("sweep_folder", sweep_folder, replace=True)
    OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)
