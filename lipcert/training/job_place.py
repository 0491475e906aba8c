"""Where a job of a sweep runs: in its folder if that is free, nowhere if it is complete there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lipcert.job_names import NOT_COMPARED


class OtherRunError(ValueError):
    """A job's folder holds a run of another configuration."""


def is_complete(folder: Path) -> bool:
    """Whether a folder holds a finished run; `results.json` is written last."""
    return (folder / "results.json").is_file()


def has_begun(folder: Path) -> bool:
    """Whether training left anything in a folder."""
    return any((folder / name).exists() for name in ("results.json", "metrics.csv", "checkpoints"))


def unfinished(folder: Path) -> Path:
    """Return where to go on in place of a folder whose run was cut off: anew in FOLDER@2, FOLDER@3 and so on."""
    name, _, attempt = folder.name.partition("@")
    return folder.with_name(f"{name}@{int(attempt or 1) + 1}")


def find_place(folder: Path, config: DictConfig) -> Path:
    """Return the folder in which a job is complete, or else is to run.

    Raises:
        OtherRunError: naming the settings in which the run that is there differs.
    """
    check_same_configuration(folder, config)
    while has_begun(folder) and not is_complete(folder):
        folder = unfinished(folder)
        check_same_configuration(folder, config)
    return folder


def check_same_configuration(folder: Path, config: DictConfig) -> None:
    """Make sure that a folder's run, if it has one, has the configuration `config`, apart from `NOT_COMPARED`.

    Raises:
        OtherRunError: naming the settings that differ.
    """
    path = folder / ".hydra" / "config.yaml"
    if not path.is_file():
        if has_begun(folder):
            raise OtherRunError(f"{folder} holds a run without {path.relative_to(folder)}; move it away.")
        return
    there, here = _settings(OmegaConf.load(path)), _settings(OmegaConf.create(OmegaConf.to_yaml(config)))
    differing = sorted(key for key in there.keys() | here.keys() if there.get(key) != here.get(key))
    if differing:
        values = ", ".join(f"{key} ({there.get(key)} there, {here.get(key)} now)" for key in differing)
        raise OtherRunError(
            f"{folder} holds a run of another configuration: {values}. "
            "Move it away, or choose another folder with hydra.sweep.dir=FOLDER."
        )


def _settings(config: Any) -> dict[str, Any]:
    """Return the values that are compared by their dotted keys, interpolations as they are written."""
    values = _flat(OmegaConf.to_container(config), "")
    return {
        key: value
        for key, value in values.items()
        if not any(key == each or key.startswith(f"{each}.") for each in NOT_COMPARED)
    }


def _flat(value: Any, key: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {key: value}
    return {leaf: item for name in value for leaf, item in _flat(value[name], f"{key}.{name}".strip(".")).items()}
