"""Sweeps: jobs that fail, are skipped, refused or started again; signals; several at a time; typed settings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.reporting.examples import Page
from tests.running import QUICK, contents, train, train_each

CHEAP = ("data.limit_train=16", "data.limit_test=4", "data.validation=0", "schedule.epochs=1")
RUN = ["-m", *QUICK, *CHEAP, "evaluation.pgd_steps=0", "evaluation.bounds=[]", "hydra.sweep.dir=sweep"]


def _faulty(seed: int, kind: str) -> list[str]:
    target = "+callbacks.faulty._target_=tests.training.faulty.Faulty"
    return [target, f"+callbacks.faulty.seed={seed}", f"+callbacks.faulty.kind={kind}"]


def _jobs(sweep: Path) -> dict[str, dict[str, Any]]:
    """Return the jobs of `sweep.json` by their seed and sparsity."""
    jobs = json.loads((sweep / "sweep.json").read_text())["jobs"]
    found = [dict(override.split("=", 1) for override in job["overrides"]) for job in jobs]
    return {
        f"{one['seed']} {one.get('sparsity.weight', '')}".strip(): job for one, job in zip(found, jobs, strict=True)
    }


@pytest.fixture(scope="module", name="failing")
def fixture_failing(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Four jobs: two with a setting that is refused, one with a fault."""
    folder = tmp_path_factory.mktemp("failing")
    (done,) = train_each([[*RUN, "sparsity.weight=-1,0", "seed=0,1", "report=true", *_faulty(1, "KeyError")]], folder)
    return folder / "sweep", done


def test_failed_jobs_do_not_stop_the_others(failing: tuple[Path, dict[str, Any]]) -> None:
    sweep, done = failing
    jobs = _jobs(sweep)
    assert {key: job["state"] for key, job in jobs.items()} == {
        "0 -1": "failed",
        "1 -1": "failed",
        "0 0": "complete",
        "1 0": "failed",
    }
    assert [job["number"] for job in jobs.values()] == [0, 1, 2, 3]
    assert done["exit"] == 1
    assert "error: 3 of 4 jobs failed" in done["stderr"]
    for key, job in jobs.items():
        assert (job["folder"] in done["stderr"].partition("jobs failed")[2]) == (key != "0 0")
    assert not [name for name in contents(sweep) if name.endswith(".tmp") or ".jobs" in name]


def test_errors_of_failed_jobs(failing: tuple[Path, dict[str, Any]]) -> None:
    sweep, _ = failing
    jobs = _jobs(sweep)
    assert jobs["0 -1"]["message"] == "Expected `sparsity.weight` >= 0, got -1.0."
    assert jobs["1 0"]["message"] == "KeyError: 'planted'"
    assert jobs["0 0"]["message"] is None
    for key, error in (("0 -1", "ValueError: Expected"), ("1 0", "KeyError: 'planted'")):
        text = (sweep / jobs[key]["folder"] / "error.txt").read_text()
        assert text.startswith("Traceback")
        assert error in text.splitlines()[-1]
    assert not (sweep / jobs["0 0"]["folder"] / "error.txt").exists()


def test_table_of_a_sweep(failing: tuple[Path, dict[str, Any]]) -> None:
    sweep, _ = failing
    results = json.loads((sweep / _jobs(sweep)["0 0"]["folder"] / "results.json").read_text())
    rows = [line.strip("| ").split(" | ") for line in (sweep / "table.md").read_text().splitlines()]
    assert [row[:2] for row in rows[2:]] == [["-1", "0 of 2"], ["0", "1 of 2"]]
    assert rows[3][rows[0].index("clean %")] == f"{100 * results['clean_accuracy']:.2f}"
    assert rows[3][rows[0].index("L global")] == f"{results['global_lipschitz']:.2f}"


def test_report_of_a_sweep(failing: tuple[Path, dict[str, Any]]) -> None:
    """It shows the job with results, and lists the others; the name of no folder changes."""
    sweep, _ = failing
    jobs = _jobs(sweep)
    page = Page((sweep / "report.html").read_text())
    results = json.loads((sweep / jobs["0 0"]["folder"] / "results.json").read_text())
    head, *rows = page.tables["Accuracies on digits"]
    assert [row[head.index("clean %")] for row in rows if row[head.index("clean %")] != "-"] == [
        f"{100 * results['clean_accuracy']:.1f}"
    ]
    assert "1 complete, 3 failed" in page.text
    assert "Expected `sparsity.weight` >= 0, got -1.0." in page.text
    assert all("report" not in job["folder"] for job in jobs.values())


@pytest.fixture(scope="module", name="again")
def fixture_again(
    failing: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, dict[str, Any]], dict[str, Any], dict[str, bytes], dict[str, bytes]]:
    """The sweep again with another list: a fault is gone, one folder is of another configuration, seeds are new."""
    folder = tmp_path_factory.mktemp("again")
    shutil.copytree(failing[0], folder / "sweep")
    (extra,) = train_each([[*RUN, "sparsity.weight=0", "seed=2"]], folder)
    assert extra["exit"] == 0, extra["stderr"]
    foreign = folder / "sweep" / _jobs(folder / "sweep")["2 0"]["folder"] / ".hydra" / "config.yaml"
    foreign.write_text(foreign.read_text().replace("epsilon: 0.3", "epsilon: 0.2"))
    before = contents(folder / "sweep")
    (done,) = train_each([[*RUN, "sparsity.weight=0", "seed=3,2,1,0"]], folder)
    return folder / "sweep", _jobs(folder / "sweep"), done, before, contents(folder / "sweep")


def test_complete_jobs_are_skipped(again: Any) -> None:
    _, jobs, _, before, after = again
    assert {key: job["state"] for key, job in jobs.items()} == {
        "3 0": "complete",
        "2 0": "failed",
        "1 0": "complete",
        "0 0": "skipped",
    }
    own = [name for name in before if name.startswith(jobs["0 0"]["folder"]) and not name.endswith("train.log")]
    assert len(own) >= 6
    assert all(after[name] == before[name] for name in own)


def test_a_folder_of_another_configuration_is_refused(again: Any) -> None:
    _, jobs, done, before, after = again
    assert done["exit"] == 1
    assert "error: 1 of 4 jobs failed" in done["stderr"]
    assert "epsilon (0.2 there, 0.3 here)" in jobs["2 0"]["message"]
    own = [name for name in after if name.startswith(jobs["2 0"]["folder"]) and not name.endswith("train.log")]
    assert {name: after[name] for name in own} == {name: before[name] for name in own}


def test_a_run_that_was_cut_off_goes_on(again: Any) -> None:
    _, jobs, _, before, after = again
    folder = jobs["1 0"]["folder"]
    assert f"{folder}/checkpoints/last.ckpt" in before
    assert f"{folder}/results.json" not in before
    assert f"{folder}/results.json" in after
    assert before[f"{folder}/.hydra/config.yaml"] == after[f"{folder}/.hydra/config.yaml"]


@pytest.mark.parametrize(("kind", "code"), [("KeyboardInterrupt", 1), ("SIGTERM", 143)])
def test_what_ends_the_process_ends_the_sweep(tmp_path: Path, kind: str, code: int) -> None:
    (done,) = train_each([[*RUN, "seed=0,1,2", *_faulty(1, kind)]], tmp_path)
    assert done["exit"] == code
    finished = list((tmp_path / "sweep").glob("*/results.json"))
    assert len(finished) == 1
    assert len([path for path in (tmp_path / "sweep").iterdir() if path.name.startswith("batch_size")]) == 2


def test_several_jobs_at_a_time(tmp_path: Path) -> None:
    launcher = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    done = train(*RUN, *launcher, "seed=0,1", *_faulty(1, "KeyError"), cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert {key: job["state"] for key, job in _jobs(tmp_path / "sweep").items()} == {"0": "complete", "1": "failed"}
    assert "error: 1 of 2 jobs failed" in done.stderr


def test_what_is_typed_beats_a_sweep(tmp_path: Path) -> None:
    typed = ["experiment=mnist_4c3f", "seed=7", "batch_size=8"]
    named, several = train_each([["sweep=table4", "scale=smoke", *typed], ["-m", "sweep=table4,table6"]], tmp_path)
    assert named["exit"] == 0, named["stderr"]
    folder = tmp_path / "sweeps" / "table4-smoke" / "batch_size=8,experiment=mnist_4c3f,seed=7"
    assert [path.parent for path in tmp_path.rglob("results.json")] == [folder]
    results = json.loads((folder / "results.json").read_text())
    assert (results["seed"], results["model"], results["data"], results["epsilon"]) == (7, "4c3f", "digits", 1.58)
    assert several["exit"] == 1
    assert "error: Expected one `sweep` a command, got table4,table6" in several["stderr"]
