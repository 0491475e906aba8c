"""Two processes do what one does: gradients, singular vectors, metrics, evaluation."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lipcert.data import load_images
from lipcert.nn import build
from tests.forks import Fork
from tests.running import REPOSITORY, start
from tests.training.two_ranks import CASES, HELD_OUT, STEPS, observe

NAMES = [f"{method} {count}" for method, count in CASES]


def _trained(path: Path) -> Path:
    """Write weights that certify some of the digits and miss some."""
    torch.manual_seed(0)
    model = build("small", (1, 8, 8), 10)
    images, labels = load_images("digits").train.first(400)[:]
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    torch.save(model.state_dict(), path)
    return path


def _start(rank: int, port: int, weights: Path, output: Path) -> Fork:
    environment = {
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    return start("-m", "tests.training.two_ranks", str(weights), str(output), cwd=REPOSITORY, **environment)


@pytest.fixture(scope="module", name="observed")
def fixture_observed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What one process sees, and what each of two sees."""
    folder = tmp_path_factory.mktemp("ranks")
    weights = _trained(folder / "weights.pt")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    outputs = [folder / f"{rank}.pt" for rank in range(2)]
    processes = [_start(rank, port, weights, output) for rank, output in enumerate(outputs)]
    try:
        alone = observe(1, weights)
        assert [process.wait().returncode for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    return alone, [torch.load(output, weights_only=True) for output in outputs]


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_one_process(observed: Any, name: str) -> None:
    alone, (first, second) = observed
    expected = alone[name]["gradients"]
    assert torch.equal(first[name]["gradients"], second[name]["gradients"])
    assert (first[name]["gradients"] - expected).abs().max() < 1e-5
    assert (expected.abs().amax(dim=1) > 1e-3).all()
    assert not torch.allclose(expected[STEPS // 2 - 1], expected[STEPS // 2], atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_singular_vectors_agree_although_one_was_spoilt(observed: Any, name: str) -> None:
    alone, (first, second) = observed
    vectors = alone[name]["vectors"]
    assert len(vectors) >= 3
    for key, expected in vectors.items():
        assert torch.equal(first[name]["vectors"][key], second[name]["vectors"][key])
        assert torch.allclose(first[name]["vectors"][key], expected, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_logged_values_are_those_of_one_process(observed: Any, name: str) -> None:
    alone, (first, second) = observed
    logged = alone[name]["logged"]
    assert {"train/loss", "lipschitz/local", "lipschitz/global", "varying/1"} < logged.keys()
    assert first[name]["logged"] == second[name]["logged"] == pytest.approx(logged, rel=1e-5)


def test_validation_counts_every_image_once(observed: Any) -> None:
    alone, ranks = observed
    for key in ("val/clean_accuracy", "val/certified_accuracy"):
        for name in NAMES:
            value = alone[name]["logged"][key]
            assert [rank[name]["logged"][key] for rank in ranks] == [value, value]
            assert value * HELD_OUT == pytest.approx(round(value * HELD_OUT), abs=1e-5)
        assert any(0 < alone[name]["logged"][key] < 1 for name in NAMES)


def test_evaluation_is_that_of_one_process(observed: Any) -> None:
    alone, (first, second) = observed
    expected = dict(alone["evaluated"])
    exact = [key for key in expected if "accuracy" in key or key in ("num_test", "lipschitz_images")]
    assert len(exact) == 8
    assert first["evaluated"] == second["evaluated"]
    assert {key: first["evaluated"][key] for key in exact} == {key: expected[key] for key in exact}
    assert first["evaluated"]["varying_fraction"] == pytest.approx(expected["varying_fraction"])
    for key in ("global_lipschitz", "local_lipschitz_mean"):
        assert first["evaluated"][key] == pytest.approx(expected[key], rel=1e-3)
    assert (expected["num_test"], expected["lipschitz_images"]) == (40, 30)
    assert 0 < expected["certified_accuracy"] < expected["pgd_accuracy"] < expected["clean_accuracy"] < 1
