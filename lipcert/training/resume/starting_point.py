"""Where a run starts: from nothing, from the last good state of its folder, or not at all because it is complete."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lipcert.system.files import link
from lipcert.training.logging.table import NAME as METRICS
from lipcert.training.logging.table import rewind
from lipcert.training.processes import is_first_process
from lipcert.training.resume.checkpoints import (
    BEST,
    LAST,
    PREVIOUS,
    DamagedCheckpointError,
    check_resumable,
    read_state,
)
from lipcert.training.resume.configuration import check_same_run, configuration_file

logger = logging.getLogger(__name__)

AUTO = "auto"
"""The value of `resume` that goes on in the run's own folder."""


@dataclass(frozen=True)
class Fresh:
    """No state to go on from."""

    epochs: int = 0


@dataclass(frozen=True)
class Resumable:
    """A good state, with so many epochs behind it; `damaged` were tried before it, with what is wrong with them."""

    path: Path
    epochs: int
    damaged: tuple[tuple[Path, str], ...] = ()


@dataclass(frozen=True)
class Complete:
    """A run with its results."""

    results: dict[str, Any]


State = Fresh | Resumable | Complete


def find_state(folder: Path, config: DictConfig, description: dict[str, Any]) -> State:
    """Return where a run with this configuration stands in a folder; nothing is changed.

    Raises:
        ValueError: for a run with another configuration, damaged results, or states of which none is good.
    """
    checkpoints = [folder / "checkpoints" / name for name in (LAST, PREVIOUS, BEST)]
    found = [path for path in checkpoints if path.is_file()]
    if not found and not (folder / "results.json").exists() and not configuration_file(folder).exists():
        return Fresh()
    check_same_run(folder, config)
    if (folder / "results.json").exists():
        return Complete(read_results(folder / "results.json"))
    damaged: list[tuple[Path, str]] = []
    for path in found:
        try:
            checkpoint = read_state(path)
        except DamagedCheckpointError as error:
            damaged.append((path, str(error)))
            continue
        check_resumable(checkpoint, description)
        return Resumable(path, int(checkpoint["epoch"]) + 1, tuple(damaged))
    if damaged:
        reasons = "; ".join(f"{path.name}: {reason}" for path, reason in damaged)
        raise ValueError(f"{folder} holds no good state ({reasons}); start again with another hydra.run.dir.")
    return Fresh()


def read_results(path: Path) -> dict[str, Any]:
    """Read `results.json`.

    Raises:
        ValueError: where it is damaged.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        float(results["certified_accuracy"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged; move it away, and resume=auto evaluates the run again.") from error
    return results


def completed(folder: Path, config: DictConfig) -> Complete | None:
    """Return the results of a run that `resume=auto` has nothing left to do for, None for any other.

    Raises:
        ValueError: for a complete run with another configuration, or damaged results.
    """
    path = folder / "results.json"
    if config.resume != AUTO or not path.exists():
        return None
    check_same_run(folder, config)
    return Complete(read_results(path))


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
    check_resumable(checkpoint, description)
    if done >= epochs:
        raise ValueError(f"resume={path} has {done} epochs behind it; give more, schedule.epochs={done + 1} for one.")
    return done


def starting_point(folder: Path, config: DictConfig, description: dict[str, Any]) -> State:
    """Return where to start, as `resume` says: nothing, a checkpoint for a new folder, or `auto`.

    Raises:
        FileExistsError, FileNotFoundError, ValueError: saying what is in the way and what to do.
    """
    if config.resume == AUTO:
        return find_state(folder, config, description)
    if is_first_process():  # others find what it has written already
        check_run_directory(folder)
    if config.resume is None:
        return Fresh()
    return Resumable(Path(config.resume), epochs_done(config.resume, description, config.schedule.epochs))


def restore_folder(folder: Path, state: Fresh | Resumable) -> Path | None:
    """Bring a folder to where its state stands, and return the checkpoint to load.

    Damaged checkpoints are set aside, the good one becomes `last.ckpt`, later rows of `metrics.csv` are dropped. At any
    moment, another rank that looks for the state finds the same one. Call it with the folder locked, in the first rank;
    in other ranks it changes nothing.
    """
    if not is_first_process():
        return None if isinstance(state, Fresh) else state.path
    for stale in (*folder.glob(".*.tmp"), *folder.glob("checkpoints/.*.tmp")):
        stale.unlink(missing_ok=True)
    if isinstance(state, Fresh):
        rewind(folder / METRICS, 0, {})
        return None
    checkpoints = folder / "checkpoints"
    if state.path.parent != checkpoints:
        return state.path  # of another run: this folder is new
    for path, reason in (*state.damaged, *_damaged_best(checkpoints, state)):
        logger.warning("%s is damaged (%s); it is kept as %s.", path, reason, _set_aside(path).name)
    if state.path.name != LAST:
        logger.warning("Going on from %s instead, after epoch %d.", state.path, state.epochs)
        link(state.path, checkpoints / LAST)
    checkpoint = read_state(checkpoints / LAST)
    rewind(folder / METRICS, int(checkpoint["global_step"]), checkpoint.get("metrics", {}))
    return checkpoints / LAST


def _damaged_best(checkpoints: Path, state: Resumable) -> list[tuple[Path, str]]:
    best = checkpoints / BEST
    if not best.is_file() or best in dict(state.damaged):
        return []
    try:
        read_state(best)
    except DamagedCheckpointError as error:
        return [(best, f"{error}; the best of the epochs to come takes its place")]
    return []


def _set_aside(path: Path) -> Path:
    """Rename a damaged file to a name of its own that ends in `.corrupt`."""
    number, aside = 1, path.with_name(f"{path.name}.corrupt")
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.{number}.corrupt")
    path.rename(aside)
    return aside
