"""Training is interrupted in mid-epoch by real signals, by a full disk, by damage: it goes on and ends the same."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
import time
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import pytest
import torch

from lipcert.system.files import refuse_damaged
from lipcert.training.logging.table import read_rows, rewind, write_rows
from tests.damage import flip_bit
from tests.forks import PATIENCE, Fork
from tests.running import QUICK, contents, start, train_each

RUN = [*QUICK, "seed=4", "data.limit_test=10", "evaluation.pgd_steps=0", "evaluation.bounds=[]"]
PAUSES = [
    f"+callbacks.pause{epoch}={{_target_:tests.training.fits.Pause,epoch:{epoch},file:paused{epoch}}}"
    for epoch in (1, 2)
]
FULL = "+callbacks.full={_target_:tests.training.fits.DiskFills,epoch:2,size:30000}"


def _start(arguments: list[str], cwd: Path) -> Fork:
    return start("-m", "lipcert.train", *arguments, cwd=cwd)


def _wait_for(file: Path, process: Fork) -> None:
    deadline = time.monotonic() + PATIENCE
    while not (file.exists() or process.has_ended()) and time.monotonic() < deadline:
        time.sleep(0.05)
    if not file.exists():
        process.kill()
        pytest.fail(process.wait().stderr)


def _weights(folder: Path, name: str = "last.ckpt") -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / name, weights_only=True)["state_dict"]


def _same_weights(first: Path, second: Path) -> bool:
    ours, theirs = _weights(first), _weights(second)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def _results(folder: Path) -> dict[str, Any]:
    """Return what does not depend on the machine's mood."""
    results = json.loads((folder / "results.json").read_text())
    return {key: value for key, value in results.items() if key not in ("seconds_per_epoch", "peak_memory_mb")}


def _whole_checkpoints(folder: Path) -> set[str]:
    names = {path.name for path in (folder / "checkpoints").iterdir()}
    for name in names:
        refuse_damaged(folder / "checkpoints" / name)
    return names


@pytest.fixture(scope="module", name="place")
def fixture_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three folders below one: `run`, to be paused in epochs 1 and 2; `whole`, never interrupted; `full`."""
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module", name="terminated")
def fixture_terminated(place: Path) -> dict[str, Any]:
    """SIGTERM in the middle of epoch 1; meanwhile, others were started."""
    process = _start([*RUN, *PAUSES, "hydra.run.dir=run", "resume=auto"], place)
    _wait_for(place / "paused1", process)
    before = contents(place / "run")
    others = [
        [*RUN, "hydra.run.dir=run"],
        [*RUN, "hydra.run.dir=run", "resume=auto"],
        [*RUN, "hydra.run.dir=whole", "resume=auto"],
        [*RUN, "hydra.run.dir=full", FULL],
    ]
    outcomes = train_each(others, place)
    unchanged = contents(place / "run") == before
    process.terminate()
    done = process.wait()
    return {"code": done.returncode, "stderr": done.stderr, "outcomes": outcomes, "unchanged": unchanged}


@pytest.fixture(scope="module", name="killed")
def fixture_killed(place: Path, terminated: dict[str, Any]) -> dict[str, Any]:
    """The command that the ended run has printed, and SIGKILL in the middle of epoch 2."""
    command = shlex.split(terminated["stderr"].partition("To go on: ")[2])
    assert command[:3] == ["python", "-m", "lipcert.train"]
    process = _start(command[3:], place)
    _wait_for(place / "paused2", process)
    process.kill()
    process.wait()
    return {"files": set(contents(place / "run")), "weights": _weights(place / "run")}


@pytest.fixture(scope="module", name="later")
def fixture_later(place: Path, killed: dict[str, Any]) -> dict[str, Any]:
    """Starts after that, each in a copy of the folder as it was."""
    for name in ("damaged", "evaluated"):
        shutil.copytree(place / "run", place / name)
    flip_bit(place / "damaged" / "checkpoints" / "last.ckpt", killed["weights"]["model.0.weight"])
    shutil.copytree(place / "whole", place / "evaluated", dirs_exist_ok=True)
    (place / "evaluated" / "results.json").unlink()
    before = contents(place / "whole")
    starts = {
        "other": [*RUN, "epsilon=0.2", "hydra.run.dir=run", "resume=auto"],
        "run": [*RUN, "hydra.run.dir=run", "resume=auto"],
        "damaged": [*RUN, "hydra.run.dir=damaged", "resume=auto"],
        "evaluated": [*RUN, "hydra.run.dir=evaluated", "resume=auto"],
        "complete": [*RUN, "hydra.run.dir=whole", "resume=auto"],
        "full": [*RUN, "hydra.run.dir=full", "resume=auto"],
    }
    outcomes = dict(zip(starts, train_each([*starts.values()], place), strict=True))
    return {**outcomes, "unchanged": contents(place / "whole") == before}


def test_sigterm(place: Path, terminated: dict[str, Any], killed: dict[str, Any]) -> None:
    assert terminated["code"] == 143
    assert "error: ended by SIGTERM. To go on: python -m lipcert.train" in terminated["stderr"]
    assert "Traceback" not in terminated["stderr"]
    assert terminated["stderr"].rstrip().endswith(f"hydra.run.dir={place / 'run'} resume=auto")


def test_sigterm_of_two_processes(tmp_path: Path) -> None:
    """In mid-step neither process waits for the other: both end at once (stderr is closed when the last one has)."""
    arguments = [*RUN, "schedule.epochs=1000", "trainer.devices=2", "trainer.accelerator=cpu", "hydra.run.dir=run"]
    process = _start(arguments, tmp_path)
    _wait_for(tmp_path / "run" / "checkpoints" / "last.ckpt", process)
    process.terminate()
    done = process.wait()
    assert done.returncode == 143, done.stderr
    assert done.stderr.count("error: ended by SIGTERM. To go on: python -m lipcert.train") == 1
    assert _whole_checkpoints(tmp_path / "run") >= {"last.ckpt"}
    assert not (tmp_path / "run" / ".lock").exists()


def test_second_run_in_a_directory(terminated: dict[str, Any]) -> None:
    for outcome in terminated["outcomes"][:2]:
        assert outcome["exit"] == 1
        assert "error: " in outcome["stderr"]
        assert "is in use by a run that is still going on (process" in outcome["stderr"]
        assert "resume=auto" in outcome["stderr"]
    assert terminated["unchanged"]


def test_sigkill(place: Path, killed: dict[str, Any], later: dict[str, Any]) -> None:
    """Interrupted twice, and the same as never interrupted, bit by bit."""
    assert "results.json" not in killed["files"]
    assert {"checkpoints/last.ckpt", "checkpoints/previous.ckpt", "checkpoints/best.ckpt"} <= killed["files"]
    assert later["run"]["exit"] == 0, later["run"]["stderr"]
    run, whole = place / "run", place / "whole"
    assert _same_weights(run, whole)
    assert _rows(run) == _rows(whole)
    assert [row["epoch"] for row in _rows(run) if row["train/loss"]] == ["0", "1", "2"]
    assert _results(run) == _results(whole)
    assert _whole_checkpoints(run) == {"last.ckpt", "previous.ckpt", "best.ckpt"}
    assert not [name for name in contents(run) if "tmp" in name or "lock" in name]
    assert "Pause" in (run / ".hydra" / "config.yaml").read_text(), "the configuration of the first start"


def test_other_configuration(later: dict[str, Any]) -> None:
    assert later["other"]["exit"] == 1
    assert "holds a run with other settings: epsilon (0.3 there, 0.2 here)" in later["other"]["stderr"]


def test_damaged_checkpoint(place: Path, later: dict[str, Any]) -> None:
    assert later["damaged"]["exit"] == 0, later["damaged"]["stderr"]
    assert _same_weights(place / "damaged", place / "whole")
    assert _rows(place / "damaged") == _rows(place / "whole")
    with pytest.raises((ValueError, BadZipFile)):
        refuse_damaged(place / "damaged" / "checkpoints" / "last.ckpt.corrupt")
    log = (place / "damaged" / "train.log").read_text()
    assert f"{place / 'damaged' / 'checkpoints' / 'last.ckpt'} is damaged" in log


def test_killed_while_certifying(place: Path, later: dict[str, Any]) -> None:
    assert later["evaluated"]["exit"] == 0, later["evaluated"]["stderr"]
    assert _results(place / "evaluated") == _results(place / "whole")
    trained = json.loads((place / "whole" / "results.json").read_text())["seconds_per_epoch"]
    again = json.loads((place / "evaluated" / "results.json").read_text())["seconds_per_epoch"]
    assert 0 < again <= trained
    assert _same_weights(place / "evaluated", place / "whole")


def test_complete(terminated: dict[str, Any], later: dict[str, Any]) -> None:
    assert terminated["outcomes"][2]["exit"] == 0, terminated["outcomes"][2]["stderr"]
    assert later["complete"]["exit"] == 0
    assert later["unchanged"]


def test_full_disk(place: Path, terminated: dict[str, Any], later: dict[str, Any]) -> None:
    outcome = terminated["outcomes"][3]
    assert outcome["exit"] == 1
    assert "Traceback" not in outcome["stderr"]
    assert "File too large. Make room; what was written before is kept. To go on: python" in outcome["stderr"]
    assert later["full"]["exit"] == 0, later["full"]["stderr"]
    assert _same_weights(place / "full", place / "whole")
    assert _rows(place / "full") == _rows(place / "whole")
    assert _whole_checkpoints(place / "full") == {"last.ckpt", "previous.ckpt", "best.ckpt"}


def test_killed_between_a_checkpoint_and_its_row(place: Path, terminated: dict[str, Any], tmp_path: Path) -> None:
    """Lightning logs the rest of an epoch's row after its checkpoint, which therefore holds that too."""
    text = (place / "whole" / "metrics.csv").read_text()
    checkpoint = torch.load(place / "whole" / "checkpoints" / "last.ckpt", weights_only=True)
    *rows, last = read_rows(place / "whole" / "metrics.csv")
    before = {key: cell for key, cell in last.items() if key in ("epoch", "step") or key not in checkpoint["metrics"]}
    assert {"epoch", "step"} < before.keys() < last.keys()
    write_rows(tmp_path / "metrics.csv", [*rows, before])
    rewind(tmp_path / "metrics.csv", checkpoint["global_step"], checkpoint["metrics"])
    assert (tmp_path / "metrics.csv").read_text() == text
