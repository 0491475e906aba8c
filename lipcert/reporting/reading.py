"""Reads runs from their folders; whatever is missing or damaged becomes a sentence, nothing is raised."""

import csv
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from lipcert.records import JSON_NAME, Record, read_record
from lipcert.records.measurement import HEADER_NAME, Measurement, read_measurement
from lipcert.reporting.runs import ELSEWHERE, Curve, Run, State
from lipcert.system.errors import reason_of
from lipcert.system.overrides import by_dotted_key

RESULTS = "results.json"
METRICS = "metrics.csv"
CONFIGURATION = ".hydra/config.yaml"
FAILURE = "error.txt"
NAME = "logger.wandb.name"
"""The setting by which a run is called, where it is set; else it is called by its folder."""

MARKS = (RESULTS, METRICS, CONFIGURATION, "checkpoints", FAILURE, JSON_NAME)
"""A folder with one of these is a run, or what is left of one."""

UNREADABLE = "cannot be read and is left out of the curves."
NOT_FINITE = "holds NaN or infinity; those points are missing in the curves."

SHOWN = 3
"""Most lines that a sentence names."""


def is_run(folder: Path) -> bool:
    """Return whether a folder holds a run or what is left of one."""
    return any((folder / mark).exists() for mark in MARKS)


def run_folders(paths: Sequence[Path]) -> list[Path]:
    """Return the folders of runs: each path that is one or holds none, else the runs directly inside it; each once."""
    found: list[Path] = []
    for path in (_folder_of(each) for each in paths):
        inside = [] if is_run(path) or not path.is_dir() else sorted(each for each in path.iterdir() if is_run(each))
        found += inside or [path]
    return list({folder.resolve(): folder for folder in found}.values())


def _folder_of(path: Path) -> Path:
    """Return the folder of the run that a file belongs to, such as its checkpoint; any other path as it is."""
    around = path.resolve().parents if path.is_file() else ()
    return next((each for each in around[:3] if is_run(each)), path)


def short_names(folders: Sequence[Path]) -> list[str]:
    """Return a name for each folder: as much of the end of its path as tells it from the others, and has a letter."""
    resolved = [folder.resolve().parts for folder in folders]
    names = []
    for parts in resolved:
        length = 1
        while (
            length < len(parts)
            and not (
                re.search("[A-Za-z]", parts[-length])  # else the number of a job, or a time
                and sum(other[-length:] == parts[-length:] for other in resolved) == 1
            )
        ):
            length += 1
        names.append("/".join(parts[-length:]))
    return names


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Return all runs at or directly inside some paths; what cannot be read is told by their `problems`."""
    folders = run_folders(paths)
    runs = [read_run(folder, name) for folder, name in zip(folders, short_names(folders), strict=True)]
    said = [run.configuration.get(NAME) for run in runs]
    return [
        replace(run, name=name) if isinstance(name, str) and said.count(name) == 1 else run
        for run, name in zip(runs, said, strict=True)
    ]


def read_run(folder: Path, name: str) -> Run:
    """Return one run; nothing is raised for files that are missing or damaged."""
    if not is_run(folder):
        why = "there is no such folder" if not folder.exists() else f"none of {', '.join(MARKS)} is in it"
        return Run(folder, name, State.NO_RUN, problems=(f"{folder} is no run: {why}.",))
    problems: list[str] = []
    failed = _failed(folder / FAILURE, problems)
    results = _results(folder / RESULTS, problems)
    configuration = _configuration(folder / CONFIGURATION, problems)
    certificates = _certificates(folder, problems)
    trained = bool(results) or (folder / METRICS).exists() or bool(configuration)
    metrics = read_metrics(folder / METRICS, problems) if trained else {}
    complete = results or (certificates and not trained)
    state = State.FAILED if failed else State.COMPLETE if complete else State.UNFINISHED
    if state is State.UNFINISHED:
        epochs = configuration.get("schedule.epochs")
        of = f" of {epochs}" if isinstance(epochs, int) else ""
        done = 1 + max(map(max, metrics.values()), default=-1)
        problems.insert(0, f"The run is not finished: {done}{of} epochs, no readable {RESULTS}.")
    measurement = _measurement(folder, configuration.get("evaluation.checkpoint", "last"), problems)
    return Run(folder, name, state, results, configuration, metrics, certificates, measurement, tuple(problems))


@contextmanager
def _telling(problems: list[str], sentence: str = "{}") -> Iterator[None]:
    """Add `sentence`, with the reason for its {}, to `problems` where a file cannot be read."""
    try:
        yield
    except (OSError, ValueError, yaml.YAMLError) as error:
        problems.append(sentence.format(reason_of(error)))


def _failed(path: Path, problems: list[str]) -> bool:
    """Return whether the run left an error, and tell it."""
    if not path.exists():
        return False
    with _telling(problems, "The run failed: {}"):
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        problems.append(f"The run failed: {lines[-1] if lines else f'{FAILURE} is empty.'}")
    return True


def _results(path: Path, problems: list[str]) -> dict[str, Any]:
    """Return `results.json`, empty where it is missing or damaged; numbers that are not finite are told, and None."""
    with _telling(problems, f"{RESULTS} is damaged ({{}}); the run is in no table."), suppress(FileNotFoundError):
        text = path.read_text(encoding="utf-8")
        results = json.loads(text)
        if not isinstance(results, dict):
            raise ValueError(f"expected an object, got a {type(results).__name__}")
        missing = [key for key in ELSEWHERE if not isinstance(results.get(key), str)]
        if missing:
            raise ValueError(f"no {', '.join(missing)}")
        broken = [key for key, value in results.items() if isinstance(value, float) and not math.isfinite(value)]
        if broken:
            problems.append(f"{RESULTS} holds no finite number under {', '.join(broken)}.")
        return dict(json.loads(text, parse_constant=lambda _: None))
    return {}


def _configuration(path: Path, problems: list[str]) -> dict[str, Any]:
    """Return the leaves of the configuration by dotted key, empty where it is missing or damaged."""
    told = f"{path.name} is damaged ({{}}); runs are grouped by {RESULTS} alone."
    with _telling(problems, told), suppress(FileNotFoundError):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("expected keys and values")
        return by_dotted_key(content)
    return {}


def _certificates(folder: Path, problems: list[str]) -> dict[str, Record]:
    """Return the records in a run, or in a folder that is one, by folder."""
    found: dict[str, Record] = {}
    for path in (*folder.glob(JSON_NAME), *sorted((folder / "certificates").glob(f"*/{JSON_NAME}"))):
        with _telling(problems, "A record is left out: {}"):
            found[str(path.parent.relative_to(folder))] = read_record(path)
    return found


def _measurement(folder: Path, evaluated: str, problems: list[str]) -> Measurement | None:
    """Return the measurement of the checkpoint that was evaluated, else of any other."""
    paths = (folder / "measurements").glob(f"*/{HEADER_NAME}")
    for path in sorted(paths, key=lambda path: path.parent.name != evaluated):
        with _telling(problems):
            return read_measurement(path.parent)
    return None


def read_metrics(path: Path, problems: list[str]) -> dict[str, Curve]:
    """Return the curves of a table by key; a file that is missing has none, which is a problem to tell."""
    try:
        header, *lines = list(csv.reader(path.read_text(encoding="utf-8").splitlines())) or [[]]
        if "epoch" not in header or len(set(header)) < len(header):
            raise ValueError("no header with `epoch`")
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError)
        what = "is missing" if missing else f"cannot be read ({reason_of(error)})"
        problems.append(f"{METRICS} {what}: there are no curves over epochs.")
        return {}
    found: dict[str, Curve] = defaultdict(dict)
    left_out: dict[str, list[int]] = defaultdict(list)
    for number, cells in enumerate(lines, start=2):
        try:
            row = dict(zip(header, cells, strict=True))
            epoch = int(row["epoch"])
            values = {key: float(cell) for key, cell in row.items() if cell and key not in ("epoch", "step")}
        except ValueError:
            left_out[UNREADABLE].append(number)
            continue
        finite = {key: value for key, value in values.items() if math.isfinite(value)}
        for key, value in finite.items():
            found[key][epoch] = value
        if len(finite) < len(values):
            left_out[NOT_FINITE].append(number)
    for what, numbers in left_out.items():
        more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
        problems.append(f"{METRICS}: line {', '.join(map(str, numbers[:SHOWN]))}{more} {what}")
    return {key: dict(sorted(curve.items())) for key, curve in found.items()}
