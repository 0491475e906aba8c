"""Settings that jobs share, checked before anything is computed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig

from lipcert.bounds import check_epsilon
from lipcert.data import Images, Split


def chosen_epsilons(given: Any, description: Mapping[str, Any], most: int | None = None) -> tuple[float, ...]:
    """Return the radii asked for, `most` at most, else the one the checkpoint was trained for.

    Raises:
        ValueError: for none, for one twice, for too many, or for one that is no positive finite number.
    """
    wanted = description.get("epsilon") if given is None else given
    if wanted is None:
        raise ValueError("The checkpoint names no epsilon; type epsilon=RADIUS (l2, in pixels of [0, 1]).")
    values = list(wanted) if isinstance(wanted, (list, tuple, ListConfig)) else [wanted]
    if not values:
        raise ValueError("Expected at least one `epsilon`, got an empty list.")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"Expected `epsilon` to be a number or a list of numbers, got {value!r}.")
        check_epsilon(value)
    if len(set(values)) < len(values):
        raise ValueError(f"Expected each `epsilon` once, got {values}.")
    if most is not None and len(values) > most:
        raise ValueError(f"Expected one `epsilon`, got {values}; run the command once for each.")
    return tuple(float(value) for value in values)


def chosen_data(config: DictConfig, description: Mapping[str, Any]) -> str:
    """Return the name of the data set asked for, else of the one the checkpoint was trained on.

    Raises:
        ValueError: for none.
    """
    name = config.data.name or description.get("data")
    if not isinstance(name, str):
        raise ValueError(f"checkpoint={config.checkpoint} names no data; type data=NAME for the data it is for.")
    return name


def chosen_images(images: Images, name: str, limit: int | None) -> Split:
    """Return the first `limit` test images, all when None or when there are no more.

    Raises:
        ValueError: for a limit below 1, or data without test images.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"Expected `limit` >= 1, got {limit}.")
    if not len(images.test):
        raise ValueError(f"{name} has no test images; there is nothing to certify.")
    return images.test.first(limit)


def chosen_device(name: str) -> torch.device:
    """Return the device asked for; a GPU if there is one for `auto`.

    Raises:
        ValueError: for a device that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind = name.partition(":")[0]
    if kind not in ("cpu", "cuda") or (kind == "cuda" and not torch.cuda.is_available()):
        raise ValueError(f"`device`={name} is not there; use device=auto or device=cpu.")
    return torch.device(name)


def check_at_least(config: DictConfig, smallest: Mapping[str, int]) -> None:
    """Raise ValueError naming a setting below its smallest value, by name."""
    for name, least in smallest.items():
        if config[name] < least:
            raise ValueError(f"Expected `{name}` >= {least}, got {config[name]}.")


def check_failure_probability(value: float) -> None:
    """Raise ValueError unless a probability lies in (0, 1)."""
    if not 0 < value < 1:
        raise ValueError(f"Expected `failure_probability` in (0, 1), got {value}.")


def chosen_output(config: DictConfig, kind: str) -> Path:
    """Return the folder asked for, else RUN/KIND/x for RUN/checkpoints/x.ckpt, or one beside the file."""
    if config.output is not None:
        return Path(config.output)
    checkpoint = required_checkpoint(config)
    run = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
    return run / kind / checkpoint.stem


def make_folder(folder: Path) -> None:
    """Make the folder of a record.

    Raises:
        OSError: if it cannot be made or written, saying what to do.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"output={folder} cannot be made ({error.strerror}); choose another output=DIR.") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"output={folder} cannot be written; choose another output=DIR.")


def required_checkpoint(config: DictConfig) -> Path:
    """Return the path of the network.

    Raises:
        ValueError: if it was not given.
    """
    if config.checkpoint is None:
        raise ValueError("Which network? Type checkpoint=PATH, for example checkpoint=RUN/checkpoints/best.ckpt.")
    return Path(config.checkpoint)


def listed(values: Any) -> list[str] | None:
    """Return a list of the configuration as Python's."""
    return None if values is None else [str(each) for each in values]


def check_choice(name: str, chosen: Sequence[str], known: Iterable[str]) -> None:
    """Raise ValueError unless at least one of the `known` values is chosen for setting `name`, and each once."""
    known = list(known)
    if not chosen or not set(chosen) <= set(known) or len(set(chosen)) < len(chosen):
        raise ValueError(f"Expected `{name}` to be some of {', '.join(known)}, each once, got {list(chosen)}.")
