"""`python -m lipcert.train` on two processes: started by Lightning, by torchrun, in sweeps, through submitit."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from lipcert.bounds import Bound
from lipcert.data import load_images
from lipcert.nn import build
from lipcert.system.configuration import register
from lipcert.training.evaluation import EvaluationSettings, evaluate
from tests.forks import stand_in
from tests.running import QUICK, contents, forked, train

TINY = (
    *QUICK,
    "schedule.epochs=2",
    "data.limit_train=37",
    "data.validation=17",
    "trainer.accelerator=cpu",
    "epsilon=0.02",
    "evaluation.batch_size=7",
    "evaluation.bounds=[]",
)
TWO = (*TINY, "trainer.devices=2")
FILES = {"results.json", "metrics.csv", "train.log", "checkpoints/best.ckpt", "checkpoints/last.ckpt"}
FILES |= {"checkpoints/previous.ckpt"}
FILES |= {f".hydra/{name}.yaml" for name in ("config", "overrides", "hydra")}


def _results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def _epochs(folder: Path) -> list[int]:
    """Return the epochs of the rows of `metrics.csv` that hold validation."""
    with (folder / "metrics.csv").open() as file:
        return [int(row["epoch"]) for row in csv.DictReader(file) if row["val/certified_accuracy"]]


@pytest.fixture(scope="module", name="finished")
def fixture_finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that Lightning started on two processes; its name holds the time."""
    folder = tmp_path_factory.mktemp("run")
    done = train(*TWO, cwd=folder, OMP_NUM_THREADS="1", **stand_in())
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Everything of this run") == 1
    (run,) = (folder / "runs" / "digits_small").iterdir()
    return run


def test_one_folder_that_one_process_writes(finished: Path) -> None:
    assert set(contents(finished)) == FILES
    assert _epochs(finished) == [0, 1]
    assert _results(finished)["num_test"] == 40


def test_results_are_those_of_one_process(finished: Path) -> None:
    """The last checkpoint, evaluated here."""
    checkpoint = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)
    weights = {key[6:]: value for key, value in checkpoint["state_dict"].items() if key.startswith("model.")}
    model = build("small", (1, 8, 8), 10)
    model.load_state_dict(weights)
    settings = EvaluationSettings([], 20, 5, 7, False, 200, seed=0)
    expected = evaluate(model, load_images("digits").test.first(40), 0.02, Bound.LOCAL, settings)
    results = _results(finished)
    exact = [key for key in expected if "accuracy" in key]
    assert {key: results[key] for key in exact} == {key: expected[key] for key in exact}
    assert 0 < results["certified_accuracy"] < 1


def test_torchrun(tmp_path: Path) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "lipcert.train")
    done = forked(*torchrun, *TWO, "hydra.run.dir='a run'", cwd=tmp_path, OMP_NUM_THREADS="1", **stand_in())
    assert done.returncode == 0, done.stderr
    assert set(contents(tmp_path)) == {f"a run/{name}" for name in FILES}
    assert _results(tmp_path / "a run")["num_test"] == 40
    assert _epochs(tmp_path / "a run") == [0, 1]


def test_sweep_with_a_job_of_two_processes(tmp_path: Path) -> None:
    """The job after it has one, and inherits nothing."""
    devices = "trainer.devices='${when:${seed},0,2,1}'"
    arguments = ("-m", *TINY, "seed=0,1", devices, "evaluation.pgd_steps=0", "hydra.sweep.dir='a sweep'")
    done = train(*arguments, cwd=tmp_path, OMP_NUM_THREADS="1", **stand_in())
    assert done.returncode == 0, done.stderr
    sweep = tmp_path / "a sweep"
    jobs = [sweep / job["folder"] for job in json.loads((sweep / "sweep.json").read_text())["jobs"]]
    assert [(_results(job)["seed"], _results(job)["num_test"]) for job in jobs] == [(0, 40), (1, 40)]
    register()  # what the configurations call
    assert [OmegaConf.load(job / ".hydra" / "config.yaml").trainer.devices for job in jobs] == [2, 1]
    assert [_epochs(job) for job in jobs] == [[0, 1], [0, 1]]
    assert all(set(contents(job)) >= FILES for job in jobs)
    assert not [name for name in contents(tmp_path) if not name.startswith("a sweep/")]


def test_sweep_through_submitit(tmp_path: Path) -> None:
    """The folder's name holds the time; the job's process must take it over."""
    arguments = ("hydra/launcher=submitit_local", "seed=1", "evaluation.pgd_steps=0")
    done = train("-m", *TINY, *arguments, cwd=tmp_path, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    (sweep,) = (tmp_path / "sweeps").iterdir()
    (job,) = json.loads((sweep / "sweep.json").read_text())["jobs"]
    assert _results(sweep / job["folder"])["seed"] == 1
