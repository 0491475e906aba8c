"""`python -m lipcert.train method=cap`: trained, certified, resumable like any other method."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.running import QUICK, train_each

CHEAP = ("data.limit_test=20", "evaluation.bounds=[]", "evaluation.pgd_steps=0", "epsilon=0.1")


@pytest.fixture(scope="module", name="folder")
def fixture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs with random projections and with exact norms."""
    folder = tmp_path_factory.mktemp("cap")
    lines = [
        [*QUICK, *CHEAP, "method=cap", "model.activation=relu", f"method.projections={k}", f"hydra.run.dir=run{k}"]
        for k in (0, 10)
    ]
    for outcome in train_each(lines, folder):
        assert outcome["exit"] == 0, outcome["stderr"]
    return folder


@pytest.mark.parametrize("projections", [0, 10])
def test_it_learns_and_certifies(folder: Path, projections: int) -> None:
    run = folder / f"run{projections}"
    results = json.loads((run / "results.json").read_text())
    assert (results["method"], results["activation"]) == ("cap", "relu")
    assert results["clean_accuracy"] > 0.2
    assert results["certified_accuracy"] > 0.05
    with (run / "metrics.csv").open() as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert losses[-1] < 2.2
