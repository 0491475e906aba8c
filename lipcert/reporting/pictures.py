"""Which pictures a run and a comparison have, and what stands where one cannot be drawn."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from lipcert.reporting.figures import comparison, confusion, convergence, measured, training
from lipcert.reporting.figures.drawing import Absent, Picture
from lipcert.reporting.groups import DataSet
from lipcert.reporting.runs import Run
from lipcert.system.job_names import quoted


def slug(name: str) -> str:
    """Return a name as part of a path or an anchor."""
    return re.sub(r"[^A-Za-z0-9._=-]+", "_", name).strip("_.") or "run"


def checkpoint(run: Run) -> str | None:
    """Return the path of the checkpoint that was evaluated, else of any other, None where there is none."""
    wanted = str(run.settings.get("evaluation.checkpoint", "last"))
    found = sorted((run.folder / "checkpoints").glob("*.ckpt"), key=lambda path: (path.stem != wanted, path.name))
    return str(found[0]) if found else None


def measure_settings(run: Run) -> dict[str, str]:
    """Return what `lipcert.measure` has to be told to make what a run lacks, nothing where it has no checkpoint."""
    path = checkpoint(run)
    settings = {"checkpoint": path, "data_root": run.data_root}
    return {} if path is None else {key: value for key, value in settings.items() if value is not None}


def measure_command(run: Run) -> str | None:
    """Return the command that makes what a run lacks, None where it has no checkpoint."""
    words = [shlex.quote(f"{key}={quoted(value)}") for key, value in measure_settings(run).items()]
    return " ".join(["python -m lipcert.measure", *words]) if words else None


def pictures_of_run(run: Run) -> list[Picture | Absent]:
    """Return the pictures of one run, in the order of the page."""
    found: list[Picture | Absent] = []
    if run.metrics.series or run.results:
        found = [training.accuracies(run), training.lipschitz(run), training.varying(run)]
    measurement = run.measurement
    if measurement is None:
        return [*found, _unmeasured(run)] if found or checkpoint(run) else []
    found += [measured.curves(measurement), measured.radii(measurement), measured.margins(measurement)]
    classes = measurement.header.data.num_classes
    if classes > confusion.MOST_CLASSES:
        sentence = f"{classes} classes are too many for a matrix; images.csv of the measurement has all rows."
        found.append(Absent("Confusion", sentence))
    else:
        found += [confusion.confusion(key, matrix) for key, matrix in confusion.matrices(measurement).items()]
    if measurement.convergence:
        return [*found, convergence.convergence(measurement)]
    return [*found, Absent("Power iterations to convergence", "None were counted.")]


def _unmeasured(run: Run) -> Absent:
    title = "Curves against ε, radii, margins, power iterations, confusion"
    command = measure_command(run)
    if command is None:
        return Absent(title, "Not measured, and the run's folder has no checkpoint to measure.")
    return Absent(title, "Not measured yet. This command does:", command)


def pictures_of_comparison(data_sets: Sequence[DataSet]) -> list[Picture]:
    """Return the pictures over groups of runs; those of several data sets, or epsilons, are kept apart."""
    found = []
    for data in data_sets:
        suffix = f"_{slug(data.name)}" if len(data_sets) > 1 else ""
        made = (
            comparison.pareto(data, f"pareto{suffix}"),
            comparison.lipschitz(data, f"lipschitz{suffix}"),
            comparison.varying(data, f"varying{suffix}"),
        )
        found += [picture for picture in made if picture is not None]
    return found
