"""Which pictures a run and a comparison have, and what stands where one cannot be drawn."""

from __future__ import annotations

import re
import shlex

from lipcert.reporting.figures.confusion import confusions
from lipcert.reporting.figures.measured import convergence, curves, margins, radii
from lipcert.reporting.figures.picture import Absent, Picture
from lipcert.reporting.figures.training import training_pictures
from lipcert.reporting.runs import Run
from lipcert.system.job_names import quoted


def slug(name: str) -> str:
    """Return a name as part of a path or an anchor."""
    return re.sub(r"[^A-Za-z0-9._=-]+", "_", name).strip("_.") or "run"


def measure_settings(run: Run) -> dict[str, str]:
    """Return what `lipcert.measure` has to be told to measure a run, nothing where it has no checkpoint.

    The checkpoint is the one that was evaluated, else any other.
    """
    wanted = str(run.settings.get("evaluation.checkpoint", "last"))
    found = sorted((run.folder / "checkpoints").glob("*.ckpt"), key=lambda path: (path.stem != wanted, path.name))
    if not found:
        return {}
    root = run.configuration.get("data.root")
    return {"checkpoint": str(found[0])} | ({} if root is None else {"data_root": root})


def pictures_of_run(run: Run) -> list[Picture | Absent]:
    """Return the pictures of one run, in the order of the page."""
    found = training_pictures(run.metrics) if run.metrics.series or run.results else []
    measured = run.measurement
    if measured is not None:
        return [
            *found,
            *(curves(measured), radii(measured), margins(measured)),
            *confusions(measured),
            convergence(measured),
        ]
    title = "Curves against ε, radii, margins, power iterations, confusion"
    words = [shlex.quote(f"{key}={quoted(value)}") for key, value in measure_settings(run).items()]
    if words:
        command = " ".join(["python -m lipcert.measure", *words])
        return [*found, Absent(title, "Not measured yet. This command does:", command)]
    if found:
        return [*found, Absent(title, "Not measured, and the run's folder has no checkpoint to measure.")]
    return []
