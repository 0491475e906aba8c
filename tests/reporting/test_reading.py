"""Runs as their folders tell them: what is read, and a sentence for everything that is missing or damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lipcert.records.measurement import CURVES_NAME, HEADER_NAME, IMAGES_NAME, read_measurement
from lipcert.reporting.groups import Group
from lipcert.reporting.reading import read_metrics, read_run, read_runs, run_folders
from lipcert.reporting.runs import State, varying_by_layer
from tests.records.examples import written
from tests.reporting.examples import CONVERGENCE, HEADER, IMAGES, METRICS, RESULTS, write_measured, write_run


def test_a_finished_run(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"), "run")
    assert (run.state, run.problems, run.configuration["schedule.epochs"]) == (State.COMPLETE, (), 3)
    assert run.results == RESULTS
    assert run.number("clean_accuracy") == 0.9137
    assert run.numbers("certified_accuracy_by_bound")["tight"] == 0.7182
    assert list(run.metrics["lipschitz/local"].values()) == [7.25, 5.25, 3.25]
    assert list(run.metrics["val/clean_accuracy"]) == [1, 2]
    assert list(varying_by_layer(run.metrics)) == ["1", "10"]
    assert "seed" not in run.settings
    assert not [key for key in run.settings if key.startswith("logger")]


def test_a_file_of_a_run_stands_for_it(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints" / "last.ckpt").touch()
    found = run_folders([folder / "checkpoints" / "last.ckpt", folder / "results.json", tmp_path])
    assert [each.resolve() for each in found] == [folder.resolve()]
    (tmp_path / "notes.txt").touch()
    assert run_folders([tmp_path / "notes.txt"]) == [tmp_path / "notes.txt"]


def test_layers_are_sorted_as_numbers(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,varying/10,varying/2.branch.0,varying/9,lipschitz/global\n0,1,1,1,1\n")
    assert list(varying_by_layer(read_metrics(tmp_path / "metrics.csv", []))) == ["2.branch.0", "9", "10"]


def test_an_unfinished_run(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", metrics=METRICS[: METRICS.index("2,4.5")])
    (folder / "results.json").unlink()
    run = read_run(folder, "run")
    assert run.state is State.UNFINISHED
    assert run.problems == ("The run is not finished: 2 of 3 epochs, no readable results.json.",)
    assert not run.is_empty


def test_a_failed_run(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "error.txt").write_text("Traceback\n  ...\nValueError: Expected `sparsity.weight` >= 0.\n")
    run = read_run(folder, "run")
    assert run.state is State.FAILED
    assert run.problems == ("The run failed: ValueError: Expected `sparsity.weight` >= 0.",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "Expecting property name"),
        ("[]", "expected an object, got a list"),
        (json.dumps({**RESULTS, "method": 3}), "no method"),
        ("", "Expecting value"),
    ],
)
def test_damaged_results(tmp_path: Path, content: str, reason: str) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "results.json").write_text(content)
    run = read_run(folder, "run")
    assert (run.state, run.results) == (State.UNFINISHED, {})
    assert [sentence for sentence in run.problems if "results.json is damaged" in sentence and reason in sentence]
    assert list(run.metrics["lipschitz/global"].values()) == [9.5, 6.5, 4.5]


def test_numbers_that_are_none(tmp_path: Path) -> None:
    run = read_run(
        write_run(tmp_path / "run", clean_accuracy=float("nan"), pgd_accuracy=None, global_lipschitz="4"), "run"
    )
    assert run.state is State.COMPLETE
    assert [run.number(key) for key in ("clean_accuracy", "pgd_accuracy", "global_lipschitz")] == [None] * 3
    assert run.problems == ("results.json holds no finite number under clean_accuracy.",)


def test_a_broken_table_of_metrics(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,lipschitz/global,step\n0,9.5,1\nnonsense\n2,nan,3\n3,x,4\n4,3.5,5\n5,2.5")
    problems: list[str] = []
    assert read_metrics(path, problems)["lipschitz/global"] == {0: 9.5, 4: 3.5}
    assert problems == [
        "metrics.csv: line 3, 5, 7 cannot be read and is left out of the curves.",
        "metrics.csv: line 4 holds NaN or infinity; those points are missing in the curves.",
    ]


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"\xff\xfe\x00", b"epoch,epoch\n1,2\n"])
def test_no_table_of_metrics(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metrics.csv").write_bytes(content)
    problems: list[str] = []
    assert not read_metrics(tmp_path / "metrics.csv", problems)
    assert len(problems) == 1
    assert "there are no curves over epochs" in problems[0]


def test_what_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, reason in (("empty", "is in it"), ("absent", "there is no such folder")):
        run = read_run(tmp_path / name, name)
        assert run.state is State.NO_RUN
        assert run.is_empty
        assert reason in run.problems[0]


def test_a_folder_of_runs_and_names(tmp_path: Path) -> None:
    for name in ("a/seed0", "a/seed1", "b/seed0"):
        write_run(tmp_path / name)
    (tmp_path / "a" / "figures").mkdir()
    runs = read_runs([tmp_path / "a", tmp_path / "b" / "seed0", tmp_path / "a" / "seed0"])
    assert [run.name for run in runs] == ["a/seed0", "seed1", "b/seed0"]


def test_runs_are_called_what_somebody_called_them(tmp_path: Path) -> None:
    for name in ("0", "2026-12-01_03-30-12-764000", "bound=local,seed=0", "mine"):
        write_run(tmp_path / "sweep" / name, {"seed": name})
    write_run(tmp_path / "sweep" / "1", {"logger": {"wandb": {"name": "the wide one"}}})
    runs = read_runs([tmp_path / "sweep"])
    names = ["sweep/0", "the wide one", "sweep/2026-12-01_03-30-12-764000", "bound=local,seed=0", "mine"]
    assert [run.name for run in runs] == names
    assert [Group((run,)).called for run in runs] == ["", "the wide one", "", "", "mine"]


def test_damaged_configuration(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / ".hydra" / "config.yaml").write_text("a: [")
    run = read_run(folder, "run")
    assert (run.state, run.settings) == (State.COMPLETE, {})
    assert "config.yaml is damaged" in run.problems[0]


def test_certificates(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run") / "certificates" / "last"
    folder.mkdir(parents=True)
    written(folder)
    found = read_run(tmp_path / "run", "run").certificates
    assert list(found) == ["certificates/last"]
    record = found["certificates/last"]
    assert record.contents.failure_probability.total == 1.2e-8
    assert [(each.epsilon, each.num_images) for each in record.totals] == [(0.1, 3), (0.25, 3)]
    assert [each.certified_accuracy for each in record.totals] == [2 / 3, 1 / 3]
    (folder / "certificates.csv").write_text("changed")
    run = read_run(tmp_path / "run", "run")
    assert run.certificates == {}
    assert "certificates.csv was changed" in run.problems[0]


def test_a_measurement_is_read_back(tmp_path: Path) -> None:
    found = read_measurement(write_measured(tmp_path))
    assert (found.images, found.convergence) == (IMAGES, CONVERGENCE)
    assert found.header.radii == HEADER.radii
    assert [(row.epsilon, row.pgd, row.certified) for row in found.curves] == [
        (0.0, 0.75, (0.75, 0.75)),
        (0.15, 0.75, (0.5, 0.75)),
        (0.3, 0.5, (0.25, 0.5)),
        (0.6, 0.25, (0.0, 0.25)),
    ]


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        (IMAGES_NAME, "0.45", "nan"),
        (IMAGES_NAME, "0.45", "0.1"),
        (IMAGES_NAME, "0,2,2", "0,x,2"),
        (IMAGES_NAME, "0,2,2", "0,2"),
        (IMAGES_NAME, "radius_local", "radius"),
        (CURVES_NAME, "0.75", "0.8"),
        (HEADER_NAME, '"format": 1', '"format": 2'),
        (HEADER_NAME, '"bounds"', '"bound"'),
        (HEADER_NAME, '"num_classes": 3', '"num_classes": 2'),
        (HEADER_NAME, '"num_classes": 3', '"num_classes": "3"'),
        (HEADER_NAME, '"largest"', '"most"'),
        (HEADER_NAME, '"epsilon": 0.3', '"epsilon": 0.31'),
        (HEADER_NAME, "{", ""),
    ],
)
def test_a_damaged_measurement_is_told(tmp_path: Path, name: str, old: str, new: str) -> None:
    path = write_measured(write_run(tmp_path / "run")) / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    run = read_run(tmp_path / "run", "run")
    assert run.measurement is None
    assert len(run.problems) == 1
    assert str(path.parent) in run.problems[0]
    assert "measure again" in run.problems[0]


def test_the_measurement_of_the_evaluated_checkpoint(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", {"evaluation": {"checkpoint": "last"}})
    write_measured(folder, "best")
    assert read_run(folder, "run").measurement.folder.name == "best"  # type: ignore[union-attr]
    write_measured(folder, "last")
    assert read_run(folder, "run").measurement.folder.name == "last"  # type: ignore[union-attr]
