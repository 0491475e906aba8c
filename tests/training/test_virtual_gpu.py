"""Training steps on a virtual GPU: devices never mix, hosts never wait, what processes exchange is on the device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.running import forked
from tests.training.steps import SEARCHING

FAULTS = """
import json

import torch
from tests import virtual_gpu

def attempt(action):
    virtual_gpu.waits.clear()
    try:
        action()
    except RuntimeError as error:
        return str(error)
    return dict(virtual_gpu.waits)

values = virtual_gpu.placed(torch.rand(3, 3) + torch.eye(3))
print(json.dumps(dict(
    mixed=attempt(lambda: values + torch.ones(3)),
    scalar=attempt(lambda: values + torch.ones(())),
    item=attempt(lambda: values.sum().item()),
    truth=attempt(lambda: bool((values > 0).all())),
    copied=attempt(lambda: values + torch.ones(3).to("virtual")),
    read=attempt(lambda: values.cpu()),
    eigh=attempt(lambda: torch.linalg.eigh(values @ values.mT)),
    mask=attempt(lambda: values[values > 0.5]),
    list=attempt(lambda: values[[0, 2]]),
)))
"""


@pytest.fixture(scope="module", name="outcomes")
def fixture_outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two steps of each combination did, and two evaluations; in another process, as torch keeps the device."""
    done = forked("-m", "tests.training.on_virtual_gpu", cwd=tmp_path_factory.mktemp("virtual"))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_no_step_makes_the_host_wait(outcomes: dict[str, Any]) -> None:
    steps = outcomes["steps"]
    waited = {case: found["waited"] for case, found in steps.items() if found["waited"]}
    assert all(case.split("/")[1] == SEARCHING and found == {"nonzero": 1} for case, found in waited.items()), waited
    assert len(steps) == 29


def test_what_processes_exchange_is_on_the_device(outcomes: dict[str, Any]) -> None:
    steps = outcomes["steps"]
    assert {case: found["handed"] for case, found in steps.items() if found["handed"] != ["virtual"]} == {}
    assert all(found["finite"] for found in steps.values())


def test_a_step_launches_no_more_than_it_did(outcomes: dict[str, Any]) -> None:
    """What a local step of 8C2F launches and touches, as docs/cost.md says; its vectors stay where they are."""
    published, default = outcomes["counts"]
    assert published["launched"] <= 1317
    assert default["launched"] <= 1000
    assert published["bytes"] < 14
    assert default["bytes"] < 8
    assert published["in_place"]
    assert default["in_place"]


def test_an_evaluation_on_the_device_finds_what_one_on_the_cpu_does(outcomes: dict[str, Any]) -> None:
    expected, found = outcomes["evaluations"]
    assert found == expected
    assert 0 < expected["certified_accuracy_by_bound"]["global"] < expected["certified_accuracy"]


def test_the_virtual_gpu_sees_what_a_gpu_would(tmp_path: Path) -> None:
    done = forked("-c", FAULTS, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "two devices" in found["mixed"]
    assert {name: sum(found[name].values()) for name in found if name != "mixed"} == {
        "scalar": 0,
        **dict.fromkeys(("item", "truth", "copied", "read", "eigh", "mask", "list"), 1),
    }
