"""What `resume=auto` finds in a folder, and what it makes of it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf

from lipcert.training.logging.table import read_rows
from lipcert.training.resume.checkpoints import AtomicCheckpoints, read_state
from lipcert.training.resume.starting_point import State, completed, find_state, restore_folder
from tests.damage import flip_bit
from tests.running import contents

DESCRIPTION = {"model": "small"}
STEPS = 10


def _config(**values: Any) -> DictConfig:
    plain = {"epsilon": 0.1, "lengths": [1, 2], "resume": "auto", "data": {"name": "digits", "root": None}}
    plain["twice"] = "${times:2,${epsilon}}"
    plain["logger"] = {"csv": {"save_dir": "${hydra:runtime.output_dir}"}}
    return OmegaConf.create({**plain, "trainer": {"devices": 1, "precision": "32-true"}, **values})


@pytest.fixture(autouse=True)
def _resolvers() -> None:
    from lipcert.system.configuration import register

    register()


def _weights(epoch: int) -> torch.Tensor:
    return torch.arange(50.0) + epoch / 7


def _save(folder: Path, epoch: int, name: str) -> None:
    state = {
        "epoch": epoch,
        "global_step": (epoch + 1) * STEPS,
        "state_dict": {"weight": _weights(epoch)},
        "lipcert": DESCRIPTION,
        "metrics": {"epoch": epoch, "step": (epoch + 1) * STEPS - 1, "train/loss": 0.5},
        "pytorch-lightning_version": pl.__version__,
    }
    AtomicCheckpoints().save_checkpoint(state, folder / "checkpoints" / name)


@pytest.fixture(name="run")
def fixture_run(tmp_path: Path) -> Path:
    """A folder with epochs 0 to 2, the best of which was 0, interrupted in epoch 3."""
    (tmp_path / ".hydra").mkdir()
    OmegaConf.save(_config(), tmp_path / ".hydra" / "config.yaml")
    rows = ["epoch,step,train/loss", *(f"{epoch},{(epoch + 1) * STEPS - 1},0.5" for epoch in range(4))]
    (tmp_path / "metrics.csv").write_text("\n".join(rows) + "\n")
    for epoch in range(3):
        _save(tmp_path, epoch, "last.ckpt")
    _save(tmp_path, 0, "best.ckpt")
    return tmp_path


def _damage(folder: Path, name: str, epoch: int) -> None:
    flip_bit(folder / "checkpoints" / name, _weights(epoch))


def _names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "checkpoints").iterdir()}


def test_nothing_there(tmp_path: Path) -> None:
    assert find_state(tmp_path, _config(), DESCRIPTION) == State()
    (tmp_path / "train.log").touch()
    assert find_state(tmp_path, _config(), DESCRIPTION) == State()
    assert restore_folder(tmp_path, State()) is None
    assert set(contents(tmp_path)) == {"train.log"}


def test_interrupted_before_the_first_checkpoint(run: Path) -> None:
    for path in (run / "checkpoints").iterdir():
        path.unlink()
    (run / "checkpoints" / ".last.ckpt.77.tmp").write_bytes(b"half a")
    state = find_state(run, _config(), DESCRIPTION)
    assert state == State()
    restore_folder(run, State())
    assert set(contents(run)) == {".hydra/config.yaml"}, "neither rows of the lost epoch nor half a file"


def test_last_state(run: Path) -> None:
    before = contents(run)
    state = find_state(run, _config(), DESCRIPTION)
    assert state == State(run / "checkpoints" / "last.ckpt", 3)
    assert contents(run) == before
    assert restore_folder(run, state) == run / "checkpoints" / "last.ckpt"
    assert [row["epoch"] for row in read_rows(run / "metrics.csv")] == ["0", "1", "2"]
    assert {name: each for name, each in contents(run).items() if name != "metrics.csv"} == {
        name: each for name, each in before.items() if name != "metrics.csv"
    }


FALLBACKS = {
    "last": ({"last.ckpt": 2}, "previous.ckpt", 1),
    "last and previous": ({"last.ckpt": 2, "previous.ckpt": 1}, "best.ckpt", 0),
}


@pytest.mark.parametrize("case", FALLBACKS)
def test_damaged_states(run: Path, case: str, caplog: pytest.LogCaptureFixture) -> None:
    damaged, good, epoch = FALLBACKS[case]
    for name, saved in damaged.items():
        _damage(run, name, saved)
    bad = {name: (run / "checkpoints" / name).read_bytes() for name in damaged}
    state = find_state(run, _config(), DESCRIPTION)
    assert state.checkpoint == run / "checkpoints" / good
    assert (state.epochs, [path.name for path, _ in state.damaged]) == (epoch + 1, [*damaged])
    with caplog.at_level(logging.WARNING):
        checkpoint = restore_folder(run, state)
    assert checkpoint == run / "checkpoints" / "last.ckpt"
    assert read_state(checkpoint)["epoch"] == epoch
    for name, content in bad.items():
        assert (run / "checkpoints" / f"{name}.corrupt").read_bytes() == content
        assert str(run / "checkpoints" / name) in caplog.text
    assert [row["epoch"] for row in read_rows(run / "metrics.csv")] == [str(each) for each in range(epoch + 1)]
    again = find_state(run, _config(), DESCRIPTION)
    assert again == State(checkpoint, epoch + 1)
    _save(run, epoch + 1, "last.ckpt")
    assert read_state(run / "checkpoints" / "previous.ckpt")["epoch"] == epoch


def test_last_state_missing(run: Path) -> None:
    """As between two renames where there are no links."""
    (run / "checkpoints" / "last.ckpt").unlink()
    state = find_state(run, _config(), DESCRIPTION)
    assert state == State(run / "checkpoints" / "previous.ckpt", 2)


def test_damaged_again(run: Path) -> None:
    for _ in range(3):
        (run / "checkpoints" / "last.ckpt").write_bytes(b"junk")
        state = find_state(run, _config(), DESCRIPTION)
        restore_folder(run, state)
        for epoch in (1, 2):
            _save(run, epoch, "last.ckpt")
    corrupt = {"last.ckpt.corrupt", "last.ckpt.2.corrupt", "last.ckpt.3.corrupt"}
    assert _names(run) == corrupt | {"last.ckpt", "previous.ckpt", "best.ckpt"}


def test_damaged_best(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    _damage(run, "best.ckpt", 0)
    state = find_state(run, _config(), DESCRIPTION)
    with caplog.at_level(logging.WARNING):
        restore_folder(run, state)
    assert _names(run) == {"last.ckpt", "previous.ckpt", "best.ckpt.corrupt"}
    assert "best.ckpt is damaged" in caplog.text


def test_no_good_state(run: Path) -> None:
    for name, epoch in (("last.ckpt", 2), ("previous.ckpt", 1), ("best.ckpt", 0)):
        _damage(run, name, epoch)
    before = contents(run)
    with pytest.raises(ValueError, match=r"no good state \(last.ckpt: .*previous.ckpt: .*best.ckpt: .*hydra.run.dir"):
        find_state(run, _config(), DESCRIPTION)
    assert contents(run) == before


def test_other_ranks_find_the_same_and_change_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _damage(run, "last.ckpt", 2)
    before = contents(run)
    state = find_state(run, _config(), DESCRIPTION)
    with monkeypatch.context() as patch:
        patch.setenv("RANK", "1")
        path = restore_folder(run, state)
    assert contents(run) == before
    ours = restore_folder(run, state)
    assert path is not None
    assert ours is not None
    assert path.read_bytes() == ours.read_bytes(), "what the other rank has found is still there"


def test_complete(run: Path) -> None:
    assert completed(run, _config()) is None
    results = {"certified_accuracy": 0.25}
    (run / "results.json").write_text(json.dumps(results))
    assert completed(run, _config()) == results
    assert completed(run, _config(resume=None)) is None
    for broken in ("", "{", "[]", "{}"):
        (run / "results.json").write_text(broken)
        with pytest.raises(ValueError, match=r"results\.json is damaged"):
            completed(run, _config())


OTHERS = {
    "value": ({"epsilon": 0.2}, ["epsilon (0.1 there, 0.2 here)", "twice (0.2 there, 0.4 here)"]),
    "list": ({"lengths": [1, 3]}, ["lengths ([1, 2] there, [1, 3] here)"]),
    "new key": ({"more": True}, ["more (absent there, True here)"]),
    "nested": ({"trainer": {"devices": 1, "precision": "64"}}, ["trainer.precision (32-true there, 64 here)"]),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_configurations(run: Path, case: str) -> None:
    values, named = OTHERS[case]
    with pytest.raises(ValueError, match="other settings") as refused:
        find_state(run, _config(**values), DESCRIPTION)
    assert f"other settings: {', '.join(named)}. " in str(refused.value)
    (run / "results.json").write_text('{"certified_accuracy": 0.5}')
    with pytest.raises(ValueError, match="other settings"):
        completed(run, _config(**values))


def test_what_may_differ(run: Path) -> None:
    trainer = {"devices": 4, "precision": "32-true"}
    config = _config(data={"name": "digits", "root": "elsewhere"}, trainer=trainer, logger={}, callbacks={"a": 1})
    assert find_state(run, config, DESCRIPTION).epochs == 3
    assert OmegaConf.select(config, "data.root") == "elsewhere", "the configuration itself is left alone"


def test_a_setting_that_an_earlier_version_did_not_know(run: Path) -> None:
    """`schedule.decay_step` has a default in the schema, `schedule.epochs` has none."""
    assert find_state(run, _config(schedule={"decay_step": 0.0}), DESCRIPTION).epochs == 3
    for setting, said in (("decay_step", "0.0"), ("epochs", "absent")):
        with pytest.raises(ValueError, match=rf"other settings: schedule\.{setting} \({said} there, 10\.0 here\)"):
            find_state(run, _config(schedule={setting: 10.0}), DESCRIPTION)


def test_a_setting_that_only_an_earlier_version_knew(run: Path) -> None:
    """Norm estimates could start from vectors of each image; what they start from now was called `shared`."""
    OmegaConf.save(_config(warm_start={"name": "shared"}), run / ".hydra" / "config.yaml")
    assert find_state(run, _config(), DESCRIPTION) == State(run / "checkpoints" / "last.ckpt", 3)
    OmegaConf.save(_config(warm_start={"name": "per_image"}), run / ".hydra" / "config.yaml")
    with pytest.raises(ValueError, match=r"other settings: warm_start\.name \(per_image there, absent here\)"):
        find_state(run, _config(), DESCRIPTION)


@pytest.mark.parametrize(("economy", "gradients"), [(20, False), (0, True)])
def test_what_was_left_out_by_an_earlier_version(run: Path, economy: int, gradients: bool) -> None:
    """`bound.economy` said how often gains were measured; 0 left nothing out, gradients through boxes included."""
    OmegaConf.save(_config(bound={"economy": economy}), run / ".hydra" / "config.yaml")
    state = State(run / "checkpoints" / "last.ckpt", 3)
    assert find_state(run, _config(bound={"skip_every": economy, "box_gradients": gradients}), DESCRIPTION) == state
    with pytest.raises(ValueError, match=rf"bound.box_gradients \({gradients} there, {not gradients} here\)"):
        find_state(run, _config(bound={"skip_every": economy, "box_gradients": not gradients}), DESCRIPTION)


@pytest.mark.parametrize("text", [None, "a: [", "a: ${nowhere}"])
def test_no_configuration_to_compare_with(run: Path, text: str | None) -> None:
    path = run / ".hydra" / "config.yaml"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=r"config"):
        find_state(run, _config(), DESCRIPTION)


def test_another_network(run: Path) -> None:
    with pytest.raises(ValueError, match=r"The checkpoint holds .*small.*this run trains .*large"):
        find_state(run, _config(), {"model": "large"})
