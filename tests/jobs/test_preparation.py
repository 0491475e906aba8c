"""What jobs load: the checkpoint once, its own data and epsilon unless others are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from lipcert.checkpoints import reading
from lipcert.jobs.preparation import prepare
from lipcert.system.configuration import config_folder, register
from tests.soundness.trained import DESCRIPTION, EPSILON, trained


def _config(command: str, *overrides: str) -> Any:
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_folder(), version_base="1.3"):
        return compose(command, overrides=list(overrides))


@pytest.fixture(name="checkpoint")
def fixture_checkpoint(tmp_path: Path) -> Path:
    state = {f"model.{name}": tensor for name, tensor in trained("clipped_relu").state_dict().items()}
    torch.save({"state_dict": state, "lipcert": DESCRIPTION}, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


@pytest.mark.parametrize("command", ["certify", "measure", "soundness"])
def test_a_checkpoint_is_read_once(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    load, loaded = torch.load, []

    def counted(path: Any, **settings: Any) -> Any:
        loaded.append(path)
        return load(path, **settings)

    monkeypatch.setattr(reading.torch, "load", counted)
    subject = prepare(_config(command, f"checkpoint={checkpoint}", "limit=5"))
    assert loaded == [checkpoint]
    assert (subject.epsilons, subject.data.name, subject.data.num_images) == ((EPSILON,), "digits", 5)
    images, labels = subject.tensors()
    assert (images.shape, labels.shape) == ((5, 1, 8, 8), (5,))
    assert not subject.model.training


@pytest.mark.parametrize("command", ["certify", "measure", "soundness", "audit"])
def test_plugins_are_imported_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="plugins=not_there cannot be imported"):
        prepare(_config(command, "plugins=[not_there]"))


def test_jobs_without_radii_need_none(checkpoint: Path) -> None:
    assert prepare(_config("audit", f"checkpoint={checkpoint}", "limit=2")).epsilons == ()


def test_jobs_of_one_radius_refuse_more(checkpoint: Path) -> None:
    config = _config("certify", f"checkpoint={checkpoint}", "epsilon=[0.1,0.2]", "limit=2")
    assert prepare(config, most_epsilons=None).epsilons == (0.1, 0.2)
    with pytest.raises(ValueError, match="Expected one `epsilon`"):
        prepare(config)
