"""Where a job of a sweep runs: free, complete, unfinished and foreign folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from lipcert.training.job_place import OtherRunError, find_place, is_complete

CONFIG = OmegaConf.create(
    {
        "epsilon": 0.3,
        "seed": 0,
        "resume": None,
        "schedule": {"epochs": 4, "ramp_epochs": "${half:${.epochs}}"},
        "data": {"name": "digits", "root": None},
        "trainer": {"devices": 1, "precision": "32-true"},
        "callbacks": {"best": {"dirpath": "${hydra:runtime.output_dir}/checkpoints"}},
    }
)


def _changed(**values: Any) -> DictConfig:
    return OmegaConf.merge(CONFIG, OmegaConf.from_dotlist([f"{key}={value}" for key, value in values.items()]))  # type: ignore[return-value]


def _write(folder: Path, *names: str, config: DictConfig = CONFIG) -> None:
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text(OmegaConf.to_yaml(config))
    for name in names:
        (folder / name).write_text("{}")


@pytest.fixture(name="folder")
def fixture_folder(tmp_path: Path) -> Path:
    return tmp_path / "seed=0"


def test_a_free_folder(folder: Path) -> None:
    assert find_place(folder, CONFIG) == folder
    folder.mkdir()
    (folder / "train.log").write_text("")
    (folder / "error.txt").write_text("ValueError")
    assert find_place(folder, CONFIG) == folder


def test_a_run_that_failed_before_training(folder: Path) -> None:
    _write(folder)
    assert find_place(folder, CONFIG) == folder


def test_a_complete_run(folder: Path) -> None:
    _write(folder, "metrics.csv", "results.json")
    assert find_place(folder, CONFIG) == folder
    assert is_complete(folder)


def test_unfinished_runs(folder: Path) -> None:
    second, third = folder.with_name("seed=0@2"), folder.with_name("seed=0@3")
    _write(folder, "metrics.csv")
    assert find_place(folder, CONFIG) == second
    _write(second, "metrics.csv")
    assert find_place(folder, CONFIG) == third
    _write(third, "metrics.csv", "results.json")
    assert find_place(folder, CONFIG) == third
    assert is_complete(third)


@pytest.mark.parametrize("names", [(), ("metrics.csv",), ("metrics.csv", "results.json")])
def test_another_configuration(folder: Path, names: tuple[str, ...]) -> None:
    _write(folder, *names, config=_changed(**{"schedule.epochs": 5, "epsilon": 0.2}))
    with pytest.raises(OtherRunError, match=r"epsilon \(0.2 there, 0.3 now\), schedule.epochs \(5 there, 4 now\)"):
        find_place(folder, CONFIG)


def test_another_configuration_behind_an_unfinished_run(folder: Path) -> None:
    _write(folder, "metrics.csv")
    _write(folder.with_name("seed=0@2"), "results.json", config=_changed(epsilon=0.2))
    with pytest.raises(OtherRunError, match="seed=0@2"):
        find_place(folder, CONFIG)


def test_a_run_without_a_configuration(folder: Path) -> None:
    folder.mkdir()
    (folder / "results.json").write_text("{}")
    with pytest.raises(OtherRunError, match=r"without \.hydra/config\.yaml"):
        find_place(folder, CONFIG)


@pytest.mark.parametrize("key", ["data.root", "resume", "trainer.devices", "callbacks.best.dirpath", "logger.csv"])
def test_where_it_runs_is_not_compared(folder: Path, key: str) -> None:
    _write(folder, "results.json", config=_changed(**{key: "7"}))
    assert find_place(folder, CONFIG) == folder
