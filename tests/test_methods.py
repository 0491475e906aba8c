"""Every method of `conf/method/`, from the command line to results."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from lipcert.system.configuration import OPTIONS, config_folder
from tests.running import QUICK, train_each

METHODS = sorted(path.stem for path in (Path(config_folder()) / "method").glob("[!o]*.yaml"))  # `of_...` name others
METHODS += list(OPTIONS["method"])
OPTIONS = {
    "cap": ["model.activation=relu"],
    "emma": ["model.activation=clipped_maxmin"],
    "crm": ["bound=global"],
    "la": ["bound=global", "model=mlp", "model.width=16"],
    "cll": ["bound=tight"],
}
SHORT = (
    "schedule.epochs=2",
    "data.limit_train=64",
    "data.limit_test=10",
    "data.validation=10",
    "evaluation.bounds=[global,tight]",
)


@pytest.fixture(scope="module", name="folder")
def fixture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a short run of every method left its folder, all in one process."""
    folder = tmp_path_factory.mktemp("methods")
    runs = [
        [*QUICK, *SHORT, f"method={method}", f"hydra.run.dir={method}", *OPTIONS.get(method, [])] for method in METHODS
    ]
    outcomes = train_each(runs, cwd=folder)
    assert [(method, outcome) for method, outcome in zip(METHODS, outcomes, strict=True) if outcome["exit"]] == []
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_a_run_leaves_a_row(folder: Path, method: str) -> None:
    results: dict[str, Any] = json.loads((folder / method / "results.json").read_text())
    assert results["method"] == method
    fractions = [results["clean_accuracy"], results["pgd_accuracy"], results["certified_accuracy"]]
    assert all(0 <= fraction <= 1 for fraction in fractions)
    assert results["certified_accuracy"] <= results["clean_accuracy"]
    assert 0 < results["local_lipschitz_mean"] <= results["global_lipschitz"] < math.inf
    assert (results["autoattack_accuracy"], results["autoattack_images"]) == (None, None)
    with (folder / method / "metrics.csv").open() as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert len(losses) == 2
    assert all(map(math.isfinite, losses))
