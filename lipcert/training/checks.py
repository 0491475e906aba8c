"""What a run checks before it starts, so that nothing fails once training is under way or over."""

from __future__ import annotations

import os
import pickle
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class
from omegaconf import DictConfig

from lipcert.config import DataConfig
from lipcert.training.module import check_description


def check_run_directory(folder: Path) -> None:
    """Make sure that a run's directory can be written and holds no earlier run.

    Raises:
        FileExistsError, PermissionError: saying which directory and what to do.
    """
    for name in ("results.json", "metrics.csv", "checkpoints"):
        if (folder / name).exists():
            raise FileExistsError(
                f"{folder} already holds a run ({name}); choose another hydra.run.dir, or go on in a new one "
                f"with resume={folder / 'checkpoints' / 'last.ckpt'}."
            )
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"The run directory {folder} cannot be written; choose another hydra.run.dir.")


def check_devices(devices: int, accelerator: str) -> None:
    """Raise ValueError when more devices are asked for than there are."""
    cuda = torch.cuda.device_count() if accelerator in ("auto", "gpu", "cuda") else 0
    available = cuda or os.cpu_count() or 1
    kind = "GPUs" if cuda else "CPU cores"
    if accelerator in ("gpu", "cuda") and not cuda:
        raise ValueError(
            f"`trainer.accelerator`={accelerator}, but this machine has no GPU; use trainer.accelerator=cpu."
        )
    if not 1 <= devices <= available:
        raise ValueError(f"Expected 1 <= `trainer.devices` <= {available} ({kind} here), got {devices}.")


def epochs_done(path: str | None, description: dict[str, Any], epochs: int) -> int:
    """Return how many epochs a checkpoint has behind it, 0 for none.

    Raises:
        FileNotFoundError, ValueError: for a checkpoint that is missing, damaged, of another network or finished.
    """
    if path is None:
        return 0
    if not Path(path).is_file():
        raise FileNotFoundError(f"resume={path}: no such checkpoint.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        done = int(checkpoint["epoch"]) + 1
        saved, _, _ = checkpoint["lipcert"], checkpoint["state_dict"], checkpoint["pytorch-lightning_version"]
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"resume={path} is damaged or no checkpoint of lipcert ({reason}).") from error
    check_description(saved, description)
    if done >= epochs:
        raise ValueError(f"resume={path} has {done} epochs behind it; give more, schedule.epochs={done + 1} for one.")
    return done


def check_settings(config: DictConfig) -> None:
    """Raise ValueError for settings that would only fail once training is under way or over."""
    evaluation = config.evaluation
    if evaluation.checkpoint not in ("last", "best"):
        raise ValueError(f"Expected `evaluation.checkpoint` to be last or best, got {evaluation.checkpoint!r}.")
    for name, least in (("batch_size", 1), ("lanczos_steps", 1), ("lipschitz_images", 1), ("pgd_steps", 0)):
        if evaluation[name] < least:
            raise ValueError(f"Expected `evaluation.{name}` >= {least}, got {evaluation[name]}.")
    if "16" in config.trainer.precision:
        raise ValueError(
            f"`trainer.precision`={config.trainer.precision} trains in half precision; bounds need 32-true."
        )
    if config.sparsity.weight and not config.model.activation.startswith("clipped"):
        raise ValueError(
            f"`sparsity.weight`={config.sparsity.weight} needs clipped activations, not {config.model.activation}: "
            "set model.activation=clipped_relu or clipped_maxmin, or sparsity.weight=0."
        )
    check_activation(config)
    unknown = set(config.data) - {each.name for each in fields(DataConfig)}
    if unknown:
        raise ValueError(f"Unknown keys in `data`: {', '.join(sorted(map(str, unknown)))}.")


def check_activation(config: DictConfig) -> None:
    """Raise ValueError for a method whose bound cannot handle the activation."""
    method = get_class(config.method["_target_"]) if "_target_" in config.method else None
    activations = getattr(method, "activations", None)
    if activations is not None and config.model.activation not in activations:
        pairs = " or ".join(f"model.activation={each}" for each in activations)
        raise ValueError(
            f"The bound of method={getattr(method, 'name', method)} cannot handle {config.model.activation}: "
            f"it works with {pairs}; for {config.model.activation} take another method, bcp or gloro for example."
        )
