"""Where a run starts: from nothing, from the last good state of its folder, or not at all because it is complete."""

import itertools
import json
import logging
import shlex
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lipcert.system.files import link, write_text
from lipcert.system.overrides import NOT_COMPARED, by_dotted_key, is_within, quoted
from lipcert.system.schema import TrainConfig
from lipcert.training.logging.table import METRICS, rewind
from lipcert.training.processes import is_first_process
from lipcert.training.resume.checkpoints import BEST, LAST, PREVIOUS, DamagedCheckpointError, read_state

logger = logging.getLogger(__name__)

AUTO = "auto"
"""The value of `resume` that goes on in the run's own folder."""

CONFIGURATION = Path(".hydra", "config.yaml")
"""Where a run's folder keeps its configuration."""


@dataclass(frozen=True)
class State:
    """Where a run stands: `epochs` are behind a good checkpoint, none behind a run that starts anew.

    `damaged`: checkpoints that were found beside it, with what is wrong with them.
    """

    checkpoint: Path | None = None
    epochs: int = 0
    damaged: tuple[tuple[Path, str], ...] = ()


def starting_point(folder: Path, config: DictConfig, description: dict[str, Any]) -> State:
    """Return where to start, as `resume` says: nothing, a checkpoint for a new folder, or `auto`.

    Raises:
        FileExistsError, FileNotFoundError, ValueError: saying what is in the way and what to do.
    """
    if config.resume == AUTO:
        return find_state(folder, config, description)
    names = ("results.json", METRICS, "checkpoints") if is_first_process() else ()  # others find what it has written
    for name in names:
        if (folder / name).exists():
            raise FileExistsError(
                f"{folder} already holds a run ({name}); go on with it by resume=auto, or choose another hydra.run.dir."
            )
    if config.resume is None:
        return State()
    path = Path(config.resume).expanduser()
    path = path / "checkpoints" / LAST if path.is_dir() else path  # of a run
    if not path.is_file():
        raise FileNotFoundError(f"resume={config.resume}: no such checkpoint.")
    try:
        done = int(read_state(path, description)["epoch"]) + 1
    except DamagedCheckpointError as error:
        raise ValueError(f"resume={config.resume} is damaged or no checkpoint of lipcert ({error}).") from error
    if done >= config.schedule.epochs:
        raise ValueError(
            f"resume={config.resume} has {done} epochs behind it; give more, schedule.epochs={done + 1} for one."
        )
    return State(path, done)


def find_state(folder: Path, config: DictConfig, description: dict[str, Any]) -> State:
    """Return where a run with this configuration, `resume=auto`, stands in a folder; nothing is changed.

    Raises:
        ValueError: for a run with another configuration, or states of which none is good.
    """
    found = [path for name in (LAST, PREVIOUS, BEST) if (path := folder / "checkpoints" / name).is_file()]
    if not found and not (folder / CONFIGURATION).exists():
        return State()
    check_same_run(folder, config)
    good, damaged = State(), []
    for path in found:
        if good.checkpoint is not None and path.name != BEST:  # of the others, the best alone is of use
            continue
        try:
            epoch = read_state(path, description)["epoch"]
        except DamagedCheckpointError as error:
            damaged.append((path, str(error)))
            continue
        if good.checkpoint is None:
            good = State(path, int(epoch) + 1)
    if damaged and good.checkpoint is None:
        reasons = "; ".join(f"{path.name}: {reason}" for path, reason in damaged)
        raise ValueError(f"{folder} holds no good state ({reasons}); start again with another hydra.run.dir.")
    return replace(good, damaged=tuple(damaged))


def completed(folder: Path, config: DictConfig) -> dict[str, Any] | None:
    """Return the results of a run that `resume=auto` has nothing left to do for, None for any other.

    Raises:
        ValueError: for a complete run with another configuration, or damaged results.
    """
    path = folder / "results.json"
    if config.resume != AUTO or not path.exists():
        return None
    check_same_run(folder, config)
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        float(results["certified_accuracy"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged; move it away, and resume=auto evaluates the run again.") from error
    return dict(results)


def restore_folder(folder: Path, state: State) -> Path | None:
    """Bring a folder to where its state stands, and return the checkpoint to load.

    Damaged checkpoints are set aside, the good one becomes `last.ckpt`, later rows of `metrics.csv` are dropped. At any
    moment, another rank that looks for the state finds the same one. Call it with the folder locked, in the first rank;
    in other ranks it changes nothing.
    """
    if not is_first_process():
        return state.checkpoint
    for stale in (*folder.glob(".*.tmp"), *folder.glob("checkpoints/.*.tmp")):
        stale.unlink(missing_ok=True)
    if state.checkpoint is None:
        rewind(folder / METRICS, 0, {})
        return None
    last = folder / "checkpoints" / LAST
    if state.checkpoint.parent != last.parent:
        return state.checkpoint  # of another run: this folder is new
    for path, reason in state.damaged:
        numbers, aside = itertools.count(2), path.with_name(f"{path.name}.corrupt")
        while aside.exists():
            aside = path.with_name(f"{path.name}.{next(numbers)}.corrupt")
        path.rename(aside)
        logger.warning("%s is damaged (%s); it is kept as %s.", path, reason, aside.name)
    if state.checkpoint != last:
        logger.warning("Going on from %s instead, after epoch %d.", state.checkpoint, state.epochs)
        link(state.checkpoint, last)
    checkpoint = read_state(last)
    rewind(folder / METRICS, int(checkpoint["global_step"]), checkpoint.get("metrics", {}))
    return last


def write_configuration(folder: Path, config: DictConfig) -> None:
    """Write `.hydra/config.yaml`, `overrides.yaml`, `hydra.yaml` as Hydra does; those of the first start are kept."""
    path, hydra_config = folder / CONFIGURATION, HydraConfig.get()
    if not is_first_process() or (path.exists() and config.resume == AUTO):
        return
    path.parent.mkdir(exist_ok=True)
    hydra = OmegaConf.create({"hydra": OmegaConf.to_container(hydra_config)})
    write_text(path.with_name("overrides.yaml"), OmegaConf.to_yaml(hydra_config.overrides.task))
    write_text(path.with_name("hydra.yaml"), OmegaConf.to_yaml(hydra))
    write_text(path, OmegaConf.to_yaml(config))  # last: where it stands, the others do


def check_same_run(folder: Path, config: DictConfig) -> None:
    """Make sure that a folder's run was started with the configuration of this one.

    Settings that a run of an earlier version did not know have their defaults there; those that are gone count where
    they asked for what is gone with them.

    Raises:
        ValueError: naming the keys that differ, or where there is no configuration to compare with.
    """
    try:
        earlier = OmegaConf.load(folder / CONFIGURATION)
    except (FileNotFoundError, yaml.YAMLError) as error:
        raise ValueError(
            f"{folder} holds a run, but no readable {CONFIGURATION} to compare with; go on in a new folder "
            f"with resume={folder / 'checkpoints' / 'last.ckpt'}."
        ) from error
    here = _leaves(config)
    written = _translated(_leaves(earlier))
    there = {**_defaults(), "data.draw": "first", **written}  # which images to hold out was no setting
    absent = "absent"
    differing = [
        f"{key} ({there.get(key, absent)} there, {here.get(key, absent)} here)"
        for key in sorted(written.keys() | here.keys())
        if there.get(key, absent) != here.get(key, absent)
    ]
    if differing and (folder / "results.json").exists() and all(each.startswith("schedule.") for each in differing):
        last, new = folder / "checkpoints" / LAST, f"{folder}-{here['schedule.epochs']}-epochs"
        command = typed_again(f"hydra.run.dir={quoted(new)}", f"resume={quoted(str(last))}")
        raise ValueError(f"{folder} is complete with {', '.join(differing)}. To train on, in a new folder: {command}")
    if differing:
        raise ValueError(
            f"{folder} holds a run with other settings: {', '.join(differing)}. "
            "Set them as they were, or choose another hydra.run.dir (hydra.sweep.dir)."
        )


def typed_again(*settings: str) -> str:
    """Return the command line of this run with other settings of where it is and what it goes on from."""
    hydra = HydraConfig.get()
    kept = [each for each in hydra.overrides.task if not each.startswith("resume=")]
    kept += [each for each in hydra.overrides.hydra if not each.startswith(("hydra.run.dir=", "hydra.mode="))]
    return f"python -m lipcert.train {shlex.join([*kept, *settings])}"


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
