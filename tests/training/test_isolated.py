"""A job of a sweep in a process of its own: its command line, its result, its failure."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import OmegaConf

from lipcert.system.errors import Interrupted
from lipcert.training.sweep import run as isolated

CONFIG = OmegaConf.create({"trainer": {"devices": 2, "num_nodes": 1}, "resume": None})


@pytest.fixture(name="hydra")
def fixture_hydra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What Hydra knows of a job of a sweep."""
    folder = tmp_path / "it's a sweep" / "0"
    folder.mkdir(parents=True)
    sources = [
        SimpleNamespace(path=path, provider=provider) for path, provider in (("/a", "main"), ("/b", "command-line"))
    ]
    hydra = SimpleNamespace(
        mode=RunMode.MULTIRUN,
        runtime=SimpleNamespace(output_dir=str(folder), cwd=str(tmp_path), config_sources=sources),
        overrides=SimpleNamespace(task=["seed=1", "data.root='a b'"], hydra=["hydra.mode=MULTIRUN"]),
        job=SimpleNamespace(config_name="train"),
    )
    monkeypatch.setattr(isolated.HydraConfig, "get", lambda: hydra)
    for name in ("WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    return hydra


def _job(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.setattr(isolated, "job_command", lambda folder, resume: [sys.executable, "-c", program, str(folder)])


def test_only_jobs_whose_processes_would_enter_the_sweep(hydra: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one = OmegaConf.create({"trainer": {"devices": 1, "num_nodes": 1}})
    assert isolated.needs_isolation(CONFIG)
    assert not isolated.needs_isolation(one)
    monkeypatch.setenv("SLURM_NTASKS", "2")
    assert not isolated.needs_isolation(CONFIG)
    monkeypatch.delenv("SLURM_NTASKS")
    hydra.mode = RunMode.RUN
    assert not isolated.needs_isolation(CONFIG)


def test_command_line_of_a_job(hydra: Any) -> None:
    """Hydra reads back the folder, the job's own overrides, and that this is no sweep."""
    folder = Path(hydra.runtime.output_dir)
    python, *rest = isolated.job_command(folder, "auto")
    assert python == sys.executable
    assert rest[:6] == ["-m", "lipcert.train", "--config-dir", "/b", "--config-name", "train"]
    overrides = OverridesParser.create().parse_overrides(rest[6:])
    values = {each.get_key_element(): each.value() for each in overrides}
    assert {key: str(value) for key, value in values.items()} == {
        "seed": "1",
        "data.root": "a b",
        "resume": "auto",
        "hydra.mode": "RUN",
        "hydra.run.dir": str(folder),
    }


def test_certified_accuracy_comes_back(hydra: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _job(
        monkeypatch,
        "import sys, pathlib; pathlib.Path(sys.argv[1], 'results.json').write_text('{\"certified_accuracy\": 0.25}')",
    )
    assert isolated.run_isolated(CONFIG) == 0.25


def test_failure_comes_back(hydra: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _job(monkeypatch, "raise SystemExit(3)")
    with pytest.raises(ChildProcessError, match=r"sweep/0 ended with exit code 3; .*seed=1"):
        isolated.run_isolated(CONFIG)


ASKING = """
import os, pathlib, signal, sys, time

def end(*_):
    pathlib.Path(sys.argv[1], "ended").touch()
    os._exit(143)

signal.signal(signal.SIGTERM, end)
os.kill(os.getppid(), signal.SIGTERM)
time.sleep(60)
"""


def test_termination_is_passed_on(hydra: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job asks for the end of its parent, which heeds it, and is itself ended by SIGTERM."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    _job(monkeypatch, ASKING)
    try:
        with pytest.raises(SystemExit) as ended:
            isolated.run_isolated(CONFIG)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 143
    assert (Path(hydra.runtime.output_dir) / "ended").exists()


def test_a_job_that_a_signal_ended_ends_the_sweep(hydra: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _job(monkeypatch, "raise SystemExit(143)")
    with pytest.raises(Interrupted) as ended:
        isolated.run_isolated(CONFIG)
    assert ended.value.code == 143
