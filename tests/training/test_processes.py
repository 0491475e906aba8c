"""What the environment says of a run's processes, and what is refused because of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch.distributed as dist
from omegaconf import DictConfig, OmegaConf

from lipcert.training.checks import check_processes
from lipcert.training.processes import (
    environment_plugins,
    from_every_process,
    is_first_process,
    leave_group,
    started_apart,
    started_processes,
)

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "4", "RANK": "2", "LOCAL_RANK": "0"}
SLURM = {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "train"}
LIGHTNING = {"WORLD_SIZE": "4", "LOCAL_RANK": "1"}
ONE_TASK = {"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "train"}
SHELL = {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "bash"}
VARIABLES = {key for each in (TORCHRUN, SLURM, LIGHTNING) for key in each}
VARIABLES |= {"SUBMITIT_LOCAL_NTASKS", "SUBMITIT_EXECUTOR"}


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def _environment(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def _config(batch_size: int = 32, devices: int = 4, nodes: int = 1) -> DictConfig:
    return OmegaConf.create({"batch_size": batch_size, "trainer": {"devices": devices, "num_nodes": nodes}})


@pytest.mark.parametrize(
    ("variables", "processes", "apart", "first", "plugins"),
    [
        ({}, 1, False, True, 0),
        (TORCHRUN, 4, True, False, 0),
        (SLURM, 4, True, True, 0),
        (LIGHTNING, 4, False, False, 0),
        (ONE_TASK, 1, False, True, 1),
        ({**ONE_TASK, **LIGHTNING}, 4, False, False, 1),
        (SHELL, 1, False, True, 1),
        ({**SLURM, **TORCHRUN}, 4, True, False, 0),
    ],
)
def test_who_started_what(
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    processes: int,
    apart: bool,
    first: bool,
    plugins: int,
) -> None:
    _environment(monkeypatch, variables)
    assert (started_processes(), started_apart(), is_first_process()) == (processes, apart, first)
    assert len(environment_plugins()) == plugins


def test_work_of_one_process() -> None:
    assert from_every_process(lambda: 5) == [5]


@pytest.mark.parametrize(
    ("config", "variables", "overrides", "message"),
    [
        (_config(30), {}, [], r"batch_size`=30 .*cannot be split over .*devices`=4 x .*= 4; set batch_size=28"),
        (_config(3, 2, 2), TORCHRUN, ["hydra.run.dir=a"], r"batch_size`=3 .*= 4; set batch_size=4 or another"),
        (_config(nodes=0), {}, [], r"num_nodes` >= 1, got 0"),
        (_config(devices=2), TORCHRUN, ["hydra.run.dir=a"], r"4 processes were started for `trainer\.devices`=2"),
        (_config(devices=1), SLURM, ["hydra.run.dir=a"], r"4 processes were started for `trainer\.devices`=1"),
        (_config(devices=2, nodes=2), {}, [], r"num_nodes`=2, .*torchrun or SLURM"),
        (_config(), TORCHRUN, ["hydra.verbose=true"], r"4 processes .*give hydra\.run\.dir=FOLDER"),
        (_config(), SLURM, [], r"give hydra\.run\.dir=FOLDER"),
        (_config(), {"SUBMITIT_LOCAL_NTASKS": "4"}, [], r"hydra\.launcher\.tasks_per_node=1"),
    ],
)
def test_refused(
    monkeypatch: pytest.MonkeyPatch, config: DictConfig, variables: dict[str, str], overrides: list[str], message: str
) -> None:
    _environment(monkeypatch, variables)
    with pytest.raises(ValueError, match=message):
        check_processes(config, overrides, multirun=False)


@pytest.mark.parametrize("variables", [TORCHRUN, SLURM])
def test_sweep_that_is_started_more_than_once(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    _environment(monkeypatch, variables)
    with pytest.raises(ValueError, match=r"a sweep is started once; .*submitit_slurm"):
        check_processes(_config(), ["hydra.run.dir=a"], multirun=True)


@pytest.mark.parametrize(
    ("config", "variables", "overrides", "multirun"),
    [
        (_config(30, 1), {}, [], False),
        (_config(), {}, [], False),
        (_config(), LIGHTNING, [], False),
        (_config(devices=2, nodes=2), TORCHRUN, ["hydra.run.dir=a"], False),
        (_config(devices=2, nodes=2), {**SLURM, "SUBMITIT_EXECUTOR": "slurm"}, [], True),
        (_config(), ONE_TASK, [], True),
    ],
)
def test_accepted(
    monkeypatch: pytest.MonkeyPatch,
    config: DictConfig,
    variables: dict[str, str],
    overrides: list[str],
    multirun: bool,
) -> None:
    _environment(monkeypatch, variables)
    check_processes(config, overrides, multirun)


def test_group_is_left(tmp_path: Path) -> None:
    """Whether there is a group or none; its threads must not outlive the run."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    leave_group()
    assert not dist.is_initialized()
    leave_group()
