"""Reads runs from their folders; whatever is missing or damaged becomes a sentence, nothing is raised."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from lipcert.records import read_record
from lipcert.records.measurement import Measurement
from lipcert.records.measurement_files import HEADER_NAME, read_measurement
from lipcert.reporting.metrics import NAME as METRICS
from lipcert.reporting.metrics import Metrics, read_metrics
from lipcert.reporting.runs import Certified, Run, State
from lipcert.system.errors import reason_of
from lipcert.system.settings import NOT_COMPARED, by_dotted_key, is_within

RESULTS = "results.json"
CONFIGURATION = Path(".hydra") / "config.yaml"
MARKS = (RESULTS, METRICS, str(CONFIGURATION), "checkpoints", "error.txt", "certificate.json")
"""A folder with one of these is a run, or what is left of one."""

WORDS = ("data", "model", "activation", "method", "bound")
"""Keys of `results.json` that must be words."""


def is_run(folder: Path) -> bool:
    """Return whether a folder holds a run or what is left of one."""
    return any((folder / mark).exists() for mark in MARKS)


def run_folders(paths: Sequence[Path]) -> list[Path]:
    """Return the folders of runs: each path that is one or holds none, else the runs directly inside it; each once."""
    found: list[Path] = []
    for path in paths:
        inside = [] if is_run(path) or not path.is_dir() else sorted(each for each in path.iterdir() if is_run(each))
        found += inside or [path]
    return list({folder.resolve(): folder for folder in found}.values())


def short_names(folders: Sequence[Path]) -> list[str]:
    """Return a name for each folder: as much of the end of its path as tells it from the others."""
    resolved = [folder.resolve().parts for folder in folders]
    names = []
    for parts in resolved:
        length = 1
        while length < len(parts) and sum(other[-length:] == parts[-length:] for other in resolved) > 1:
            length += 1
        names.append("/".join(parts[-length:]))
    return names


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Return all runs at or directly inside some paths; what cannot be read is told by their `problems`."""
    folders = run_folders(paths)
    return [read_run(folder, name) for folder, name in zip(folders, short_names(folders), strict=True)]


def read_run(folder: Path, name: str) -> Run:
    """Return one run; nothing is raised for files that are missing or damaged."""
    if not is_run(folder):
        why = "there is no such folder" if not folder.exists() else f"none of {', '.join(MARKS)} is in it"
        return Run(folder, name, State.NO_RUN, problems=(f"{folder} is no run: {why}.",))
    problems: list[str] = []
    results = _results(folder / RESULTS, problems)
    configuration = _configuration(folder / CONFIGURATION, problems)
    certificates = _certificates(folder, problems)
    trained = bool(results) or (folder / METRICS).exists() or bool(configuration)
    metrics = read_metrics(folder / METRICS) if trained else Metrics()
    epochs = configuration.get("schedule.epochs", results.get("epochs"))
    state = State.COMPLETE if results or (certificates and not trained) else State.UNFINISHED
    if (folder / "error.txt").exists():
        state = State.FAILED
        problems.insert(0, f"The run failed: {_last_line(folder / 'error.txt')}")
    elif state is State.UNFINISHED:
        of = f" of {epochs}" if isinstance(epochs, int) else ""
        problems.insert(0, f"The run is not finished: {metrics.epochs}{of} epochs, no readable {RESULTS}.")
    return Run(
        folder,
        name,
        state,
        results,
        {key: value for key, value in configuration.items() if not is_within(key, ("seed", *NOT_COMPARED))},
        configuration.get("data.root"),
        epochs if isinstance(epochs, int) else None,
        metrics,
        certificates,
        _measurement(folder, configuration, problems),
        (*problems, *metrics.problems),
    )


def _results(path: Path, problems: list[str]) -> dict[str, Any]:
    """Return `results.json`, empty where it is missing or damaged; numbers that are none are told and left out."""
    if not path.exists():
        return {}
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(results, dict):
            raise ValueError(f"expected an object, got a {type(results).__name__}")
        missing = [key for key in WORDS if not isinstance(results.get(key), str)]
        if missing:
            raise ValueError(f"no {', '.join(missing)}")
    except (OSError, ValueError) as error:
        problems.append(f"{RESULTS} is damaged ({reason_of(error)}); the run is in no table.")
        return {}
    broken = [key for key, value in results.items() if isinstance(value, float) and not math.isfinite(value)]
    if broken:
        problems.append(f"{RESULTS} holds no finite number under {', '.join(broken)}.")
    return _finite(results)


def _finite(value: Any) -> Any:
    """Return JSON values without numbers that are not finite."""
    if isinstance(value, dict):
        kept = {key: _finite(each) for key, each in value.items()}
        return {key: each for key, each in kept.items() if not isinstance(each, float) or math.isfinite(each)}
    return value


def _configuration(path: Path, problems: list[str]) -> dict[str, Any]:
    """Return the leaves of the configuration by dotted key, as written, interpolations included."""
    if not path.exists():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("expected keys and values")
    except (OSError, ValueError, yaml.YAMLError) as error:
        problems.append(f"{path.name} is damaged ({reason_of(error)}); runs are grouped by {RESULTS} alone.")
        return {}
    return by_dotted_key(content)


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError as error:
        return reason_of(error)
    return lines[-1] if lines else "error.txt is empty."


def _certificates(folder: Path, problems: list[str]) -> tuple[Certified, ...]:
    """Return the totals of the records in a run, or in a folder that is one."""
    paths = [*folder.glob("certificate.json"), *sorted((folder / "certificates").glob("*/certificate.json"))]
    if not paths:
        return ()
    found = []
    for path in paths:
        try:
            record = read_record(path)
        except (OSError, ValueError) as error:
            problems.append(f"A record is left out: {reason_of(error)}")
            continue
        failure = record.contents.failure_probability.total
        found += [
            Certified(
                str(path.parent.relative_to(folder)),
                each.epsilon,
                each.num_images,
                each.clean_accuracy,
                each.certified_accuracy,
                failure,
            )
            for each in record.totals
        ]
    return tuple(found)


def _measurement(folder: Path, configuration: dict[str, Any], problems: list[str]) -> Measurement | None:
    """Return the measurement of the checkpoint that was evaluated, else of any other."""
    evaluated = str(configuration.get("evaluation.checkpoint", "last"))
    paths = sorted((folder / "measurements").glob(f"*/{HEADER_NAME}"), key=lambda path: path.parent.name != evaluated)
    for path in paths:
        try:
            return read_measurement(path.parent)
        except ValueError as error:
            problems.append(str(error))
    return None
