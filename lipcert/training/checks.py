"""What a run checks before it starts, so that nothing fails once training is under way or over."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from lipcert.config import DataConfig
from lipcert.training.module import check_description
from lipcert.training.storage import DamagedCheckpointError, read_state


def check_run_directory(folder: Path) -> None:
    """Make sure that a run's directory holds no earlier run.

    Raises:
        FileExistsError: saying which directory and what to do.
    """
    for name in ("results.json", "metrics.csv", "checkpoints"):
        if (folder / name).exists():
            raise FileExistsError(
                f"{folder} already holds a run ({name}); go on with it by resume=auto, or choose another hydra.run.dir."
            )


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


def epochs_done(path: str, description: dict[str, Any], epochs: int) -> int:
    """Return how many epochs a checkpoint has behind it.

    Raises:
        FileNotFoundError, ValueError: for a checkpoint that is missing, damaged, of another network or finished.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"resume={path}: no such checkpoint.")
    try:
        checkpoint = read_state(Path(path))
    except DamagedCheckpointError as error:
        raise ValueError(f"resume={path} is damaged or no checkpoint of lipcert ({error}).") from error
    done = int(checkpoint["epoch"]) + 1
    check_description(checkpoint["lipcert"], description)
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
    unknown = set(config.data) - {each.name for each in fields(DataConfig)}
    if unknown:
        raise ValueError(f"Unknown keys in `data`: {', '.join(sorted(map(str, unknown)))}.")
