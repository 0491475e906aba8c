"""What is kept of compositions changes none: a command has the configuration that a new interpreter gives it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.running import forked, python

SHOW = """
import sys
import types

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from lipcert.commands.train import main

job = types.ModuleType("lipcert.jobs.train")
job.run = lambda config: print(OmegaConf.to_yaml(config), OmegaConf.to_yaml(HydraConfig.get()))
sys.modules[job.__name__] = job
main()
"""
"""Prints the configuration of each job in place of running it."""


@pytest.mark.parametrize(
    "arguments",
    [
        ("experiment=mnist_4c3f", "seed=3", "hydra.run.dir=run"),
        ("-m", "experiment=mnist_4c3f", "scale=smoke", "seed=3,4", "hydra.sweep.dir=sweep"),
    ],
)
def test_configurations_are_those_of_an_interpreter(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    shown = []
    for run in (python, forked):
        done = run("-c", SHOW, *arguments, cwd=tmp_path)
        assert "batch_size: " in done.stdout, done.stderr
        shown.append([line for line in done.stdout.splitlines() if not line.startswith("[")])  # the log has the time
    assert shown[0] == shown[1]
