"""A training that was interrupted ends exactly where an uninterrupted one does."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from lipcert.bounds import Bound
from lipcert.checkpoints import load_network
from lipcert.losses import Standard
from lipcert.system.schema import BoundConfig
from tests.training.fits import BATCHES, EPOCHS, StopAfter, classifier, digits, trainer


class Draws(pl.Callback):
    """Draws from every global random source at each step."""

    def __init__(self) -> None:
        self.drawn: list[tuple[float, float, float]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        self.drawn.append((torch.rand(()).item(), float(np.random.rand()), random.random()))


def _fit(
    folder: Path,
    activation: str,
    seed: int,
    *callbacks: pl.Callback,
    resume: Path | None = None,
    **arguments: Any,
):
    pl.seed_everything(seed, verbose=False)
    module = classifier(activation, seed=seed, **arguments)
    fitted = trainer(folder, *callbacks)
    fitted.fit(module, digits(), ckpt_path=resume, weights_only=True)
    return fitted, module


def _flat(state: Any) -> list[Any]:
    """Return the leaves of nested dicts and lists, in order."""
    if isinstance(state, dict):
        return [leaf for key in sorted(state, key=str) for leaf in (key, *_flat(state[key]))]
    if isinstance(state, list | tuple):
        return [leaf for each in state for leaf in _flat(each)]
    return [state]


def _identical(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and torch.equal(first, second)
    return first == second


@pytest.mark.parametrize("bound", [Bound.GLOBAL, Bound.LINEAR_SPLIT, Bound.GLOBAL_LIPLT])
def test_runs_resume_whose_bounds_were_logged_by_another_bound(tmp_path: Path, bound: Bound) -> None:
    """Clean epochs are logged by `local`, which keeps vectors that the run's own bound does not know."""
    settings = {"method": Standard(), "bound": BoundConfig(bound, box_gradients=False)}
    _, expected = _fit(tmp_path / "whole", "clipped_relu", 0, **settings)
    _fit(tmp_path / "half", "clipped_relu", 0, StopAfter(1), **settings)
    _, module = _fit(tmp_path / "rest", "clipped_relu", 99, resume=tmp_path / "half" / "last.ckpt", **settings)
    weights, wanted = module.state_dict(), expected.state_dict()
    assert any("typical" in name for name in wanted)
    assert weights.keys() == wanted.keys()
    assert all(torch.equal(weights[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("activation", ["clipped_relu", "clipped_maxmin"])
def test_resumed_training_is_bit_identical(tmp_path: Path, activation: str) -> None:
    draws, first_half, second_half = Draws(), Draws(), Draws()
    whole, expected = _fit(tmp_path / "whole", activation, 0, draws)
    stopped, _ = _fit(tmp_path / "half", activation, 0, first_half, StopAfter(1))
    assert stopped.global_step == 2 * BATCHES
    checkpoint = tmp_path / "half" / "last.ckpt"
    resumed, module = _fit(tmp_path / "rest", activation, 99, second_half, resume=checkpoint)
    assert resumed.global_step == whole.global_step == EPOCHS * BATCHES
    assert first_half.drawn + second_half.drawn == draws.drawn

    weights, wanted = module.state_dict(), expected.state_dict()
    assert weights.keys() == wanted.keys()
    assert {"norms.vector_1", "norms.vector_6"} <= weights.keys()
    assert [key for key in wanted if not torch.equal(weights[key], wanted[key])] == []
    content = torch.load(checkpoint, weights_only=True)
    halfway = content["state_dict"]
    idle = {f"norms.typical_{name}" for name in content["callbacks"]["SkipPlan"]["skipped"]["masks"]}
    same = {key for key in wanted if torch.equal(halfway[key], wanted[key])}
    assert same <= idle, "everything went on changing but vectors of masks that are skipped"

    states = [_flat(each.optimizers[0].state_dict()) for each in (resumed, whole)]
    assert len(states[0]) == len(states[1]) > 3 * len(list(module.parameters()))
    assert all(map(_identical, *states))


@pytest.fixture(scope="module", name="stopped")
def fixture_stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pl.LightningModule]:
    """The checkpoint of a run that ended after an epoch, to be read or copied, and what it trained."""
    folder = tmp_path_factory.mktemp("stopped")
    _, module = _fit(folder, "clipped_relu", 0, StopAfter(0))
    return folder / "last.ckpt", module.eval()


def test_checkpoint_of_another_architecture(stopped: tuple[Path, pl.LightningModule], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"checkpoint holds .*'clipped_relu'.*this run trains .*'clipped_maxmin'"):
        _fit(tmp_path, "clipped_maxmin", 0, resume=stopped[0])


def _of_earlier_version(path: Path, starts: dict[str, Any]) -> None:
    """Write into a checkpoint where norm estimates started, and more state of its time, as an earlier version did."""
    content = torch.load(path, weights_only=True)
    content["callbacks"]["RandomState"] = {"torch": torch.get_rng_state()}
    content["callbacks"].pop("SkipPlan", None)
    torch.save({**content, "warm_start": starts, "economy": {"box 2": (False, 3), "norm 3": (True, 1)}}, path)


def test_checkpoints_of_earlier_versions(stopped: tuple[Path, pl.LightningModule], tmp_path: Path) -> None:
    """Whose estimates started from vectors for all images, as they do now, or from vectors of each image."""
    path = Path(shutil.copy(stopped[0], tmp_path))
    _of_earlier_version(path, {"name": "shared", "vectors": {}})
    resumed, _ = _fit(tmp_path / "rest", "clipped_relu", 0, resume=path)
    assert resumed.global_step == EPOCHS * BATCHES
    _of_earlier_version(path, {"name": "output_side", "vectors": {"6": torch.zeros(200, 100)}})
    with pytest.raises(ValueError, match="trained with warm_start=output_side, which lipcert has no more"):
        _fit(tmp_path / "other", "clipped_relu", 0, resume=path)
    loaded = load_network(path, (1, 8, 8), 10).model
    images = digits().test.images[:20]
    assert torch.equal(loaded(images), stopped[1](images)), "other commands load a network alone"


def test_evaluation_loads_every_weight(stopped: tuple[Path, pl.LightningModule]) -> None:
    """The checkpoint of a run restores a fresh module completely."""
    checkpoint, module = stopped
    fresh = classifier(seed=5)
    fresh.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"])
    images = digits().test.images[:20]
    assert torch.equal(fresh(images), module(images))
