"""`python -m lipcert.certify`: the record it leaves, what it refuses, and how it goes on after it was stopped."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from torch import nn

import lipcert
from lipcert.checkpoints import load_network
from lipcert.commands.certify import main
from lipcert.data import Images, Split, load_images
from lipcert.jobs import certify as job
from lipcert.jobs import preparation
from lipcert.nn import build
from lipcert.records import JOURNAL_NAME, Record, read_record
from lipcert.records.fingerprint import data_sha256, model_sha256
from tests.running import contents, forked, python

FILES = {"certificate.json", "certificates.csv"}
DESCRIPTION = {"data": "digits", "model": "small", "activation": "clipped_relu", "epsilon": 0.05}


@dataclass(frozen=True)
class Outcome:
    """How a command line ended."""

    exit: int
    stdout: str
    stderr: str


Command = Callable[..., Outcome]


@pytest.fixture(name="certify")
def fixture_certify(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `lipcert.certify` with arguments, in this process."""

    def command(*arguments: str) -> Outcome:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["lipcert.certify", *arguments])
        monkeypatch.setenv("COLUMNS", "200")
        code: Any = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        return Outcome(code, *capsys.readouterr())

    return command


@pytest.fixture(scope="module", name="trained")
def fixture_trained() -> nn.Module:
    """The small net after a second of training on digits."""
    torch.manual_seed(0)
    network, train = build("small", (1, 8, 8), 10), load_images("digits").train
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(100):
        images, labels = train[torch.randint(len(train), (128,))]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    return network.eval()


@pytest.fixture(name="home")
def fixture_home(trained: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a run with a checkpoint of lipcert, and a plain state dict."""
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    state = trained.state_dict()
    own = {"state_dict": {f"model.{name}": tensor for name, tensor in state.items()}, "lipcert": DESCRIPTION}
    torch.save(own, tmp_path / "run" / "checkpoints" / "best.ckpt")
    torch.save(state, tmp_path / "plain.pth")
    monkeypatch.chdir(tmp_path)
    return tmp_path


OWN = "checkpoint=run/checkpoints/best.ckpt"
PLAIN = "checkpoint=plain.pth"
RECORD = Path("run/certificates/best")


def _record(folder: Path = RECORD) -> Record:
    return read_record(folder / "certificate.json")


def _table(record: Record) -> list[tuple[Any, ...]]:
    """Return of each row what does not depend on random start vectors."""
    return [(row.index, row.label, row.prediction, row.epsilon) for row in record.rows]


def test_own_checkpoint(home: Path, certify: Command, trained: nn.Module) -> None:
    outcome = certify(OWN, "epsilon=0.02,0.1", "limit=40", "batch_size=16")
    assert outcome.exit == 0, outcome.stderr
    assert set(contents(RECORD)) == FILES
    record = _record()
    about = record.contents
    assert (about.checkpoint, about.epsilons, about.clip_input) == ("run/checkpoints/best.ckpt", (0.02, 0.1), False)
    assert about.model.description == DESCRIPTION
    assert (about.data.name, about.data.split, about.data.num_images) == ("digits", "test", 40)
    assert (about.data.image_shape, about.data.num_classes) == ((1, 8, 8), 10)
    images, labels = load_images("digits").test[:40]
    assert about.data.sha256 == data_sha256(images, labels)
    assert about.model.sha256 == model_sha256(trained)
    assert (about.model.dtype, about.arithmetic.executed) == ("float32", "float32")
    assert about.arithmetic.unit_roundoff == 2.0**-24
    prediction = trained(images).argmax(dim=1)
    assert [row.label for row in record.rows] == labels.tolist() * 2
    assert [row.prediction for row in record.rows] == prediction.tolist() * 2
    clean = (prediction == labels).double().mean().item()
    assert clean > 0.5
    assert [totals.clean_accuracy for totals in record.totals] == [clean] * 2


def test_rows_are_consistent(home: Path, certify: Command) -> None:
    settings = "epsilon=0.1,0.02,0.3", "limit=40", "batch_size=16", "stages=[global,local,tight,liplt]"
    assert certify(OWN, *settings).exit == 0
    record = _record()
    for row in record.rows:
        if row.certified:
            assert row.margin > 0
            assert row.prediction == row.label
            assert row.radius >= row.epsilon
        assert row.certified == bool(row.stage)
    certified = {epsilon: {row.index for row in record.rows if row.certified and row.epsilon == epsilon}
                 for epsilon in record.contents.epsilons}  # fmt: skip
    assert certified[0.3] <= certified[0.1] <= certified[0.02]
    assert 0 < len(certified[0.1]) < 40
    accuracies = {totals.epsilon: totals.certified_accuracy for totals in record.totals}
    assert accuracies == {epsilon: len(rows) / 40 for epsilon, rows in certified.items()}
    by_stage = [sum(totals.certified_by_stage.values()) for totals in record.totals]
    assert by_stage == [len(certified[epsilon]) for epsilon in (0.1, 0.02, 0.3)]


def test_a_certificate_at_a_larger_epsilon_is_kept(home: Path, certify: Command) -> None:
    assert certify(OWN, "epsilon=0.02,0.1", "limit=40").exit == 0
    rows = _record().rows
    kept = [(small, large) for small, large in zip(rows[:40], rows[40:], strict=True) if large.certified]
    assert kept
    for small, large in kept:
        assert (small.margin, small.lipschitz, small.rounding, small.stage, small.radius) == (
            *(large.margin, large.lipschitz, large.rounding, large.stage, large.radius),
        )
    only_small = [each for each in zip(rows[:40], rows[40:], strict=True) if each[0].certified > each[1].certified]
    for small, large in only_small:
        assert small.radius == max(0.02, large.radius) < 0.1


def test_exhaustive_stages(home: Path, certify: Command) -> None:
    for switch, entered in (("false", False), ("true", True)):
        stages = ("stages=[global,tight-100]", f"exhaustive={switch}", "overwrite=true")
        assert certify(OWN, "epsilon=50", "limit=6", *stages).exit == 0
        assert (_record().contents.stages[1].entered > 0) is entered


def test_work_of_the_stages(home: Path, certify: Command) -> None:
    assert certify(OWN, "epsilon=0.02,0.1", "limit=40", "batch_size=16").exit == 0
    record = _record()
    about = record.contents
    assert sum(stage.certified for stage in about.stages) == len({row.index for row in record.rows if row.certified})
    assert about.stages[0].entered >= 30
    assert all(stage.entered >= stage.certified for stage in about.stages)
    assert about.norms
    for name, bracket in about.norms.items():
        assert 0 < bracket.lower <= bracket.upper, name


def test_failure_probability(home: Path, certify: Command) -> None:
    """Convolutions of 2,048 inputs have their norms bounded at random."""
    torch.manual_seed(0)
    torch.save(build("4c3f", (1, 8, 8), 10).state_dict(), "large.pth")
    settings = ("data=digits", "epsilon=0.01", "limit=2", "failure_probability=1e-8")
    outcome = certify("checkpoint=large.pth", *settings)
    assert outcome.exit == 0, outcome.stderr
    failure = _record(Path("certificates/large")).contents.failure_probability
    assert failure.per_norm == 1e-8
    assert failure.norms >= 3
    assert failure.total == pytest.approx(failure.norms * 1e-8)
    assert f"1 - {failure.total:.1e} ({failure.norms} norms" in outcome.stdout


def test_norms_bracket_the_exact_ones(home: Path, certify: Command, trained: nn.Module) -> None:
    assert certify(OWN, "limit=5").exit == 0
    norms = _record().contents.norms
    assert set(norms) == {"1", "3", "6"}  # the activations
    exact = torch.linalg.matrix_norm(trained[5].weight.double(), 2).item()  # type: ignore[index]
    assert norms["6"].lower <= exact * (1 + 1e-6)
    assert exact <= norms["6"].upper <= 1.01 * exact


def test_plain_state_dict(home: Path, certify: Command) -> None:
    outcome = certify(PLAIN, "data=digits", "epsilon=0.05", "limit=20")
    assert outcome.exit == 0, outcome.stderr
    record = _record(Path("certificates/plain"))
    assert record.contents.model.description == {"model": "small", "activation": "clipped_relu"}
    assert certify(OWN, "limit=20").exit == 0
    own = _record()
    assert own.contents.epsilons == (0.05,)  # the checkpoint's own
    assert own.contents.model.sha256 == record.contents.model.sha256
    assert _table(own) == _table(record)


def test_settings_reach_the_certificates(home: Path, certify: Command) -> None:
    assert certify(OWN, "limit=3", "clip_input=true", "stages=[global]", "output=out/here").exit == 0
    record = _record(Path("out/here"))
    assert record.contents.clip_input is True
    assert [stage.name for stage in record.contents.stages] == ["global"]


def test_builder_and_residual_network(home: Path, certify: Command) -> None:
    text = """
from torch import nn
from lipcert.nn import Residual

def network():
    return nn.Sequential(Residual(nn.Conv2d(1, 1, 3, padding=1)), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10))
"""
    Path("nets_of_the_command.py").write_text(text)
    state = {
        "0.branch.weight": torch.rand(1, 1, 3, 3),
        "0.branch.bias": torch.zeros(1),
        "3.weight": torch.rand(10, 64),
        "3.bias": torch.zeros(10),
    }
    torch.save(state, "mine.pth")
    found = ("data=digits", "builder=nets_of_the_command:network", "epsilon=0.01", "limit=4")
    outcome = certify("checkpoint=mine.pth", *found)
    assert outcome.exit == 0, outcome.stderr
    assert _record(Path("certificates/mine")).contents.model.description == {"builder": found[1].split("=")[1]}


def test_what_is_printed(home: Path, certify: Command) -> None:
    outcome = certify(OWN, "epsilon=0.02,0.1", "limit=40")
    record = _record()
    for totals in record.totals:
        (line,) = [line for line in outcome.stdout.splitlines() if line.split("│")[1:2] == [f"{totals.epsilon:>8} "]]
        assert line.split("│")[2].strip() == f"{totals.clean_accuracy:.1%}"
        assert line.split("│")[3].strip() == f"{totals.certified_accuracy:.1%}"
    for stage in record.contents.stages:
        assert any(stage.name in line and str(stage.entered) in line for line in outcome.stdout.splitlines())
    assert str(RECORD) in outcome.stdout
    assert outcome.stderr == ""  # no progress bar but on a terminal


def test_a_limit_beyond_the_data_takes_all(home: Path, certify: Command) -> None:
    assert certify(OWN, "limit=100000", "stages=[global]").exit == 0
    assert _record().contents.data.num_images == len(load_images("digits").test)


def test_a_finished_record_is_replaced_only_when_asked(home: Path, certify: Command) -> None:
    assert certify(OWN, "limit=3").exit == 0
    before = contents(RECORD)
    outcome = certify(OWN, "limit=2")
    assert outcome.exit == 1
    assert "already holds a record" in outcome.stderr
    assert "overwrite=true" in outcome.stderr
    assert contents(RECORD) == before
    assert certify(OWN, "limit=2", "overwrite=true").exit == 0
    assert _record().contents.data.num_images == 2
    assert set(contents(RECORD)) == FILES


def test_sweep_over_epsilon(home: Path, certify: Command) -> None:
    outcome = certify("-m", OWN, "epsilon=0.1,0.2", "limit=2", "output=out/${epsilon}", "stages=[global]")
    assert outcome.exit == 0, outcome.stderr
    assert [_record(Path("out") / each).contents.epsilons for each in ("0.1", "0.2")] == [(0.1,), (0.2,)]


def _firsts(monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None) -> list[int]:
    """Return a list that will hold the first image of each batch that is computed; stop before one of them."""
    found: list[int] = []
    certify_batch = job.certify_batch

    def spied(cascade: Any, images: Any, labels: Any, first: int, epsilons: Sequence[float]) -> Any:
        if first == stop_at:
            raise KeyboardInterrupt
        found.append(first)
        return certify_batch(cascade, images, labels, first, epsilons)

    monkeypatch.setattr(job, "certify_batch", spied)
    return found


KILLED = f"""
import os, signal, sys
from lipcert.commands.certify import main
from lipcert.records import Journal

append = Journal.append

def killed_before_the_third(journal, batch):
    if len(journal.batches) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    append(journal, batch)

Journal.append = killed_before_the_third
sys.argv = ["certify", {OWN!r}, "epsilon=0.02,0.1", "limit=24", "batch_size=5"]
main()
"""


def test_a_killed_process_loses_at_most_a_batch(home: Path, certify: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    done = forked("-c", KILLED, cwd=home)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert set(contents(RECORD)) == {JOURNAL_NAME}
    kept = [json.loads(line) for line in (RECORD / JOURNAL_NAME).read_text().splitlines()[1:]]
    firsts = _firsts(monkeypatch)
    outcome = certify(OWN, "epsilon=0.02,0.1", "limit=24", "batch_size=8")  # batches may be of another size
    assert outcome.exit == 0, outcome.stderr
    assert firsts == [10, 18]
    assert set(contents(RECORD)) == FILES
    record = _record()
    by_place = {(row.index, row.epsilon): row for row in record.rows}
    for batch in kept:
        for row in batch["rows"]:
            assert vars(by_place[row["index"], row["epsilon"]]) == row
    assert certify(OWN, "epsilon=0.02,0.1", "limit=24", "output=again").exit == 0
    again = _record(Path("again"))
    assert _table(again) == _table(record)
    assert [row.margin for row in again.rows] == pytest.approx([row.margin for row in record.rows], abs=0.05)
    assert record.contents.stages[0].entered == again.contents.stages[0].entered


def test_an_interrupted_command_goes_on(home: Path, certify: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patches:
        firsts = _firsts(patches, stop_at=16)
        outcome = certify(OWN, "limit=24", "batch_size=8")
        assert outcome.exit == 130
        assert "goes on" in outcome.stderr
        assert firsts == [0, 8]
    path = RECORD / JOURNAL_NAME
    path.write_bytes(path.read_bytes()[:-7])  # and the last line was torn
    firsts = _firsts(monkeypatch)
    assert certify(OWN, "limit=24", "batch_size=8").exit == 0
    assert firsts == [8, 16]
    assert [row.index for row in _record().rows] == list(range(24))


def test_stopped_between_the_last_batch_and_the_record(
    home: Path, certify: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*arguments: Any) -> Record:
        raise KeyboardInterrupt

    with monkeypatch.context() as patches:
        patches.setattr(job, "finish", stopped)
        assert certify(OWN, "limit=8").exit == 130
    firsts = _firsts(monkeypatch)
    assert certify(OWN, "limit=8").exit == 0
    assert firsts == []
    record = _record()
    assert len(record.rows) == 8
    assert record.contents.norms


@pytest.mark.parametrize("other", ["epsilon=0.2", "limit=9", "clip_input=true", "stages=[global]"])
def test_a_partial_record_is_not_mixed(
    home: Path, certify: Command, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    with monkeypatch.context() as patches:
        _firsts(patches, stop_at=4)
        assert certify(OWN, "limit=8", "batch_size=4").exit == 130
    before = contents(RECORD)
    outcome = certify(OWN, "limit=8", other)
    assert outcome.exit == 1
    assert "begun with other settings" in outcome.stderr
    assert contents(RECORD) == before
    assert certify(OWN, "limit=8", other, "overwrite=true").exit == 0
    assert set(contents(RECORD)) == FILES


def test_a_partial_record_of_another_network_is_refused(
    home: Path, certify: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patches:
        _firsts(patches, stop_at=4)
        assert certify(OWN, "limit=8", "batch_size=4").exit == 130
    checkpoint = torch.load("run/checkpoints/best.ckpt", weights_only=True)
    checkpoint["state_dict"]["model.0.bias"] += 1e-3
    torch.save(checkpoint, "run/checkpoints/best.ckpt")
    assert "sha256" in certify(OWN, "limit=8").stderr


def test_a_partial_record_under_another_plugin_is_refused(
    home: Path, certify: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers come from plugins, too: rows of one version and of another must not stand in one record."""
    plugin = "plugins=[layers_of_the_partial_record]"
    Path("layers_of_the_partial_record.py").write_text("slope = 1")
    with monkeypatch.context() as patches:
        _firsts(patches, stop_at=4)
        assert certify(OWN, "limit=8", "batch_size=4", "stages=[global]", plugin).exit == 130
    assert "plugins {'layers_of_the_partial_record': " in certify(OWN, "limit=8", "stages=[global]").stderr
    Path("layers_of_the_partial_record.py").write_text("slope = 2")
    assert "begun with other settings: plugins {" in certify(OWN, "limit=8", "stages=[global]", plugin).stderr


def test_edited_rows_are_noticed(home: Path, certify: Command) -> None:
    assert certify(OWN, "limit=3").exit == 0
    path = RECORD / "certificates.csv"
    path.write_text(path.read_text().replace("0.05", "0.06"))
    with pytest.raises(ValueError, match="was changed"):
        _record()


CASES = {
    "no checkpoint": ("epsilon=0.1", "checkpoint=PATH"),
    "missing checkpoint": ("checkpoint=missing.ckpt", "checkpoint=missing.ckpt: no such file"),
    "damaged checkpoint": ("checkpoint=damaged.ckpt", "damaged or no checkpoint"),
    "empty checkpoint": ("checkpoint=empty.ckpt", "damaged or no checkpoint"),
    "pickled network": ("checkpoint=pickled.pt", "save model.state_dict()"),
    "no data": (f"{PLAIN} epsilon=0.1", "type data=NAME"),
    "no epsilon": (f"{PLAIN} data=digits", "type epsilon=RADIUS"),
    "unknown data": (f"{OWN} data=faces", "faces"),
    "no such folder": (f"{OWN} data_root=missing", "data.root=missing is not a folder"),
    "unknown model": (f"{PLAIN} data=digits epsilon=0.1 model=vgg", "4c3f"),
    "unknown activation": (f"{PLAIN} data=digits epsilon=0.1 activation=swish", "clipped_maxmin"),
    "other model": (f"{OWN} model=4c3f", "'0.weight' of shape (16, 1, 4, 4), but the network needs (32, 1, 3, 3)"),
    "other images": (f"{OWN} data=photos", "'0.weight' of shape (16, 1, 4, 4), but the network needs (16, 3, 4, 4)"),
    "epsilon zero": (f"{OWN} epsilon=0", "Expected `epsilon` > 0 and finite, got 0"),
    "epsilon negative": (f"{OWN} epsilon=0.1,-0.1", "Expected `epsilon` > 0 and finite, got -0.1"),
    "epsilon nan": (f"{OWN} epsilon=nan", "Expected `epsilon` > 0 and finite, got nan"),
    "epsilon infinite": (f"{OWN} epsilon=inf", "Expected `epsilon` > 0 and finite, got inf"),
    "epsilon in words": (f"{OWN} epsilon=large", "to be a number or a list of numbers, got 'large'"),
    "epsilon true": (f"{OWN} epsilon=true", "to be a number or a list of numbers, got True"),
    "epsilon twice": (f"{OWN} epsilon=0.1,0.1", "each `epsilon` once"),
    "no epsilon in the list": (f"{OWN} epsilon=[]", "at least one `epsilon`"),
    "limit zero": (f"{OWN} limit=0", "Expected `limit` >= 1, got 0"),
    "limit negative": (f"{OWN} limit=-3", "Expected `limit` >= 1, got -3"),
    "limit in words": (f"{OWN} limit=half", "limit"),
    "batch size": (f"{OWN} batch_size=0", "Expected `batch_size` >= 1, got 0"),
    "no memory": (f"{OWN} memory_gb=1e-9", "memory_gb=NUMBER"),
    "memory negative": (f"{OWN} memory_gb=-1", "Expected `memory_gb` > 0"),
    "unknown stage": (f"{OWN} stages=magic", "Expected `stages` to be some of"),
    "stage twice": (f"{OWN} stages=global,global", "each once"),
    "no stage": (f"{OWN} stages=[]", "Expected `stages` to be some of"),
    "failure probability": (f"{OWN} failure_probability=0", "Expected `failure_probability` in (0, 1), got 0"),
    "unknown device": (f"{OWN} device=abacus", "device=cpu"),
    "builder without a function": (f"{PLAIN} data=digits epsilon=0.1 builder=json", "builder=package.module:function"),
    "builder that is not there": (f"{PLAIN} data=digits epsilon=0.1 builder=no.such:thing", "No module named 'no'"),
    "output below a file": (f"{OWN} output=plain.pth/out", "output=plain.pth/out cannot be made"),
    "output is a file": (f"{OWN} output=plain.pth", "output=plain.pth cannot be made"),
    "unknown key": (f"{OWN} nonsense=1", "nonsense"),
    "wrong type": (f"{OWN} clip_input=perhaps", "clip_input"),
}


@pytest.mark.parametrize("case", CASES)
def test_refused_in_one_sentence(home: Path, certify: Command, case: str) -> None:
    arguments, reason = CASES[case]
    (home / "damaged.ckpt").write_text("hello")
    (home / "empty.ckpt").touch()
    torch.save(build("small", (1, 8, 8), 10), home / "pickled.pt")
    before = contents(home)
    outcome = certify(*arguments.split())
    assert outcome.exit == 1
    assert "Traceback" not in outcome.stderr
    assert reason in outcome.stderr.partition("error: ")[2]
    assert contents(home) == before
    assert not (home / "run" / "certificates").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(home: Path, certify: Command) -> None:
    Path("locked").mkdir(mode=0o500)
    outcome = certify(OWN, "limit=2", "output=locked")
    assert outcome.exit == 1
    assert "output=locked cannot be written" in outcome.stderr


def test_data_without_test_images(home: Path, certify: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = Split(torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64))
    monkeypatch.setattr(preparation, "load_again", lambda known, name, **given: Images(empty, empty, 10))
    outcome = certify(OWN)
    assert outcome.exit == 1
    assert "digits has no test images" in outcome.stderr


def test_a_norm_without_a_finite_bound_stops_at_once(
    home: Path, certify: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job.Cascade, "norm_brackets", lambda cascade: {"3": (1.0, float("inf"))})
    outcome = certify(OWN, "limit=4", "batch_size=1")
    assert outcome.exit == 1
    assert "The norm of layer '3' has no finite bound" in outcome.stderr
    assert not (RECORD / "certificate.json").exists()


NAMES = """
import sys
import lipcert.certify
import lipcert.commands.certify
import torch
from torch import nn
from lipcert import certify
import importlib

model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
images, labels = torch.rand(3, 1, 2, 2), torch.zeros(3, dtype=torch.long)
assert lipcert.certify is certify is lipcert.certificates.certify
assert importlib.import_module("lipcert.certify") is certify
assert lipcert.certify(model, images, labels, epsilon=0.1).certified.shape == (3,)
"""


def test_the_function_keeps_its_name_beside_the_command(tmp_path: Path) -> None:
    done = python("-c", NAMES, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_function_keeps_its_name_here() -> None:
    __import__("lipcert.certify")
    assert callable(lipcert.certify)
    assert lipcert.certify.__module__ == "lipcert.certificates.certify"


def test_the_network_is_that_of_the_record(home: Path, certify: Command) -> None:
    """Who reads a record can load the same network from what it says."""
    assert certify(PLAIN, "data=digits", "epsilon=0.1", "limit=2").exit == 0
    about = _record(Path("certificates/plain")).contents
    named = about.model.description
    network = load_network(
        about.checkpoint, about.data.image_shape, about.data.num_classes, named["model"], named["activation"]
    )
    assert model_sha256(network.model) == about.model.sha256
