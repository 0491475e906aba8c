"""`python -m lipcert.train`: what a run leaves behind, alone and in sweeps."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from lipcert.data import load_images
from lipcert.nn import build
from tests.reporting.examples import Page
from tests.running import QUICK, contents, train, train_each

LAYERS = {"1", "3", "6"}
"""Activations of the small net, as named in logs."""

LOGGED = {
    "train/loss",
    "val/clean_accuracy",
    "val/certified_accuracy",
    "lipschitz/global",
    "lipschitz/local",
    *(f"{quantity}/{layer}" for quantity in ("lipschitz", "varying") for layer in LAYERS),
    "schedule/epsilon",
    "schedule/lambda",
    "schedule/learning_rate",
}
RESULTS = {
    *("data", "model", "activation", "method", "bound", "seed", "epsilon", "num_test", "clean_accuracy"),
    *("pgd_accuracy", "certified_accuracy", "failure_probability", "global_lipschitz", "local_lipschitz_mean"),
    *(
        "certified_accuracy_executed",
        "autoattack_accuracy",
        "autoattack_images",
        "varying_fraction",
        "seconds_per_epoch",
        "peak_memory_mb",
        "epochs",
        "lipcert_version",
        "torch_version",
        "commit",
    ),
}


RUN = (*QUICK, "epsilon=0.1", "seed=4")
CHEAP = ("data.limit_test=10", "evaluation.pgd_steps=0", "evaluation.bounds=[]")
STOP = ("+callbacks.stop._target_=tests.training.fits.StopAfter", "+callbacks.stop.epoch=0")


@pytest.fixture(scope="module", name="finished")
def fixture_finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("runs") / "first run"
    done = train(*RUN, f"hydra.run.dir='{folder}'", cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in folder.parent.iterdir()] == ["first run"]
    return folder


@pytest.fixture(scope="module", name="later")
def fixture_later(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Four more runs in one process: into the finished one's folder, stopped, resumed; with other epochs."""
    folder = tmp_path_factory.mktemp("later")
    again = [*RUN, f"hydra.run.dir='{finished}'"]
    stopped = [*RUN, *CHEAP, *STOP, "hydra.run.dir=stopped"]
    resumed = [*RUN, *CHEAP, "resume=stopped", "hydra.run.dir=resumed", "report=true"]
    more = [*again, "resume=auto", "schedule.epochs=5"]
    before = contents(finished)
    outcomes = train_each([again, stopped, resumed, more], cwd=folder)
    outcomes[0]["unchanged"] = contents(finished) == before
    return folder, outcomes


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return {key[6:]: value for key, value in checkpoint["state_dict"].items() if key.startswith("model.")}


def _metrics(folder: Path) -> dict[str, list[float]]:
    """Return the values of each column of `metrics.csv`, in order."""
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {key: [float(row[key]) for row in rows if row[key]] for key in rows[0]}


def _results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def test_files_of_a_run(finished: Path) -> None:
    files = set(contents(finished))
    assert {"metrics.csv", "results.json", "checkpoints/best.ckpt", "checkpoints/last.ckpt"} <= files
    assert {".hydra/config.yaml", ".hydra/overrides.yaml", ".hydra/hydra.yaml"} <= files
    assert not [name for name in files if name.endswith(".tmp")]


def test_configuration_of_a_run(finished: Path) -> None:
    config = OmegaConf.load(finished / ".hydra" / "config.yaml")
    assert (config.data.limit_train, config.epsilon, config.seed, config.schedule.epochs) == (150, 0.1, 4, 3)
    assert (config.data.name, config.method["_target_"]) == ("digits", "lipcert.losses.GloRo")
    overrides = OmegaConf.load(finished / ".hydra" / "overrides.yaml")
    assert list(overrides)[:2] == list(QUICK[:2])


def test_metrics_of_a_run(finished: Path) -> None:
    metrics = _metrics(finished)
    assert set(metrics) >= LOGGED
    assert {key: len(metrics[key]) for key in (*LOGGED, "epoch")} == dict.fromkeys((*LOGGED, "epoch"), 3)
    fractions = [key for key in LOGGED if key.startswith(("val/", "varying/"))]
    assert all(0 <= value <= 1 for key in fractions for value in metrics[key])
    for local, whole in zip(metrics["lipschitz/local"], metrics["lipschitz/global"], strict=True):
        assert 0 < local <= whole * 1.0001
    last_step = 2 + 9 / 10  # ten batches an epoch; ramps end at 1.5 epochs, decay starts there
    assert metrics["schedule/epsilon"] == pytest.approx([0.11 * 0.9 / 1.5, 0.11, 0.11])
    assert metrics["schedule/lambda"] == pytest.approx([0.9 / 1.5, 1, 1])
    assert metrics["schedule/learning_rate"][2] == pytest.approx(3e-3 * (5e-6 / 3e-3) ** ((last_step - 1.5) / 1.5))
    assert metrics["train/loss"][2] < metrics["train/loss"][0]


def test_results_of_a_run(finished: Path) -> None:
    results = _results(finished)
    assert results.keys() >= RESULTS
    stated = ("data", "model", "activation", "method", "bound", "seed", "epsilon", "num_test", "epochs")
    assert [results[key] for key in stated] == ["digits", "small", "clipped_relu", "gloro", "local", 4, 0.1, 40, 3]
    assert 0 <= results["certified_accuracy"] <= results["pgd_accuracy"] <= results["clean_accuracy"] <= 1
    assert 0 <= results["failure_probability"] < 1e-3
    assert 0 < results["certified_accuracy_executed"] <= results["certified_accuracy"]
    assert 0 < results["local_lipschitz_mean"] <= results["global_lipschitz"]
    assert results["varying_fraction"].keys() == LAYERS
    assert results["seconds_per_epoch"] > 0
    assert results["peak_memory_mb"] > 0


def test_results_are_those_of_the_last_checkpoint(finished: Path) -> None:
    model = build("small", (1, 8, 8), 10).eval()
    model.load_state_dict(_weights(finished))
    test = load_images("digits").test
    with torch.no_grad():
        correct = model(test.images[:40]).argmax(dim=1) == test.labels[:40]
    assert correct.sum() > 8
    assert _results(finished)["clean_accuracy"] == pytest.approx(correct.double().mean().item())


def test_a_second_run_leaves_the_first_alone(finished: Path, later: tuple[Path, list[dict[str, Any]]]) -> None:
    again = later[1][0]
    assert again["exit"] == 1
    assert f"error: {finished} already holds a run" in again["stderr"]
    assert "hydra.run.dir" in again["stderr"]
    assert "resume=" in again["stderr"]
    assert again["unchanged"]


def test_a_run_that_stopped_goes_on_exactly(finished: Path, later: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, (_, stopped, resumed, _) = later
    assert stopped["exit"] == 0, stopped["stderr"]
    assert resumed["exit"] == 0, resumed["stderr"]
    assert set(_metrics(folder / "stopped")["epoch"]) == {0}
    assert set(_metrics(folder / "resumed")["epoch"]) == {1, 2}
    assert _metrics(folder / "resumed")["train/loss"] == _metrics(finished)["train/loss"][1:]
    halfway, ours, expected = (_weights(each) for each in (folder / "stopped", folder / "resumed", finished))
    assert [key for key in expected if not torch.equal(ours[key], expected[key])] == []
    assert not torch.equal(halfway["0.weight"], expected["0.weight"])


def test_a_complete_run_with_other_epochs_is_told_what_trains_on(
    finished: Path, later: tuple[Path, list[dict[str, Any]]]
) -> None:
    more = later[1][3]
    assert more["exit"] == 1
    said = more["stderr"].partition("error: ")[2]
    assert "schedule.epochs (3 there, 5 here)" in said
    words = shlex.split(said.partition("To train on, in a new folder: ")[2])
    assert words[:3] == ["python", "-m", "lipcert.train"]
    assert {"schedule.epochs=5", f"resume='{finished}/checkpoints/last.ckpt'"} <= set(words)
    assert f"hydra.run.dir='{finished}-5-epochs'" in words
    assert "resume=auto" not in words


def test_the_end_says_what_comes_next(later: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, (_, _, resumed, _) = later
    assert f"Next: python -m lipcert.certify {folder / 'resumed'}" in resumed["stdout"]


def test_sweep(finished: Path, tmp_path: Path) -> None:
    """Two jobs in one process; the second repeats the finished run exactly."""
    (done,) = train_each([["-m", "method=bcp,gloro", "hydra.sweep.dir=sweep", *RUN, *CHEAP]], tmp_path)
    assert done["exit"] == 0, done["stderr"]
    jobs = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["jobs"]
    bcp, gloro = (tmp_path / "sweep" / job["folder"] for job in jobs)
    assert [_results(job)["method"] for job in (bcp, gloro)] == ["bcp", "gloro"]
    assert _metrics(bcp).keys() >= LOGGED
    expected, repeated, other = _weights(finished), _weights(gloro), _weights(bcp)
    assert all(torch.equal(repeated[key], expected[key]) for key in expected)
    assert not all(torch.equal(other[key], expected[key]) for key in expected)


def test_report(later: tuple[Path, list[dict[str, Any]]]) -> None:
    folder = later[0] / "resumed"
    page = Page((folder / "report.html").read_text())
    results = json.loads((folder / "results.json").read_text())
    assert page.tiles["certified_accuracy"] == f"{100 * results['certified_accuracy']:.1f} %"
    assert (folder / "figures" / "resumed" / "lipschitz.png").is_file()
    assert not (later[0] / "stopped" / "report.html").exists()
