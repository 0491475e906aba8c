"""`python -m lipcert.soundness`: what it leaves, that it ends with 1 where something is refuted, what it refuses."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from lipcert.certificates import Cascade
from lipcert.commands.soundness import main
from lipcert.norms import UpperNorms
from lipcert.soundness import arithmetic
from lipcert.soundness.attacked import ATTACKS
from tests.running import contents, python
from tests.soundness.trained import DESCRIPTION, trained

OWN = "checkpoint=run/checkpoints/best.ckpt"
QUICK = ("limit=12", "norms=20", "steps=3", "restarts=1", "queries=20")
FEW = (*QUICK, "attacks=[pgd,random]")
FOUND = Path("run/soundness/best/soundness.json")


@dataclass(frozen=True)
class Outcome:
    """How a command line ended."""

    exit: int
    stdout: str
    stderr: str


Command = Callable[..., Outcome]


@pytest.fixture(name="soundness")
def fixture_soundness(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `lipcert.soundness` with arguments, in this process."""

    def command(*arguments: str) -> Outcome:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["lipcert.soundness", *arguments])
        monkeypatch.setenv("COLUMNS", "200")
        code: Any = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        return Outcome(code, *capsys.readouterr())

    return command


@pytest.fixture(name="home")
def fixture_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a run with a checkpoint of lipcert, and a plain state dict."""
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    state = trained("clipped_relu").state_dict()
    own = {"state_dict": {f"model.{name}": tensor for name, tensor in state.items()}, "lipcert": DESCRIPTION}
    torch.save(own, tmp_path / "run" / "checkpoints" / "best.ckpt")
    torch.save(state, tmp_path / "plain.pth")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_lower_precision_by_the_environment_is_refused(
    home: Path, soundness: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONEDNN_DEFAULT_FPMATH_MODE", "BF16")
    outcome = soundness(OWN, *FEW)
    assert outcome.exit == 1
    assert "ONEDNN_DEFAULT_FPMATH_MODE=BF16" in outcome.stderr


def test_nothing_is_refuted(home: Path, soundness: Command) -> None:
    before = set(contents(home))
    outcome = soundness(OWN, *QUICK)
    assert outcome.exit == 0, outcome.stderr
    assert set(contents(home)) - before == {str(FOUND)}
    found = json.loads(FOUND.read_text())
    assert found["refuted"] == []
    assert (found["data"], found["epsilon"], found["images"]) == ("digits", DESCRIPTION["epsilon"], 12)
    assert found["norms"]["compared"] >= 20
    assert [(each["attack"], each["box"]) for each in found["attacks"]] == [
        (name, box) for name in ATTACKS for box in (True, False)
    ]
    assert all(each["attacked"] == found["certified"] > 5 for each in found["attacks"])
    assert all(each["found"] == each["below"] == 0 < each["smallest_room"] for each in found["attacks"])
    assert found["rounding"]["points"] == found["certified"] * 13
    assert found["precision"]["refused"] == 0
    for words in ("norm upper bounds", "apgd-t", "rounding:", "float64:", str(FOUND.parent)):
        assert words in outcome.stdout


def test_plain_state_dict_and_folder(home: Path, soundness: Command) -> None:
    outcome = soundness("checkpoint=plain.pth", "data=digits", "epsilon=0.05", "output=here", *FEW)
    assert outcome.exit == 0, outcome.stderr
    assert json.loads(Path("here/soundness.json").read_text())["epsilon"] == 0.05


def test_nothing_certified(home: Path, soundness: Command) -> None:
    outcome = soundness(OWN, "epsilon=50", *FEW)
    assert outcome.exit == 0, outcome.stderr
    assert "Nothing is certified, so nothing was attacked." in outcome.stdout


def _half_norms(patches: pytest.MonkeyPatch) -> None:
    for kind in ("local_norms", "global_norm"):
        correct = getattr(UpperNorms, kind)
        patches.setattr(UpperNorms, kind, lambda *arguments, correct=correct: correct(*arguments) * 0.5)


def _shifted_margins(patches: pytest.MonkeyPatch) -> None:
    correct = Cascade.__call__

    def shifted(*arguments: Any) -> Any:
        certificate = correct(*arguments)
        return replace(certificate, margin=certificate.margin + 10)

    patches.setattr(Cascade, "__call__", shifted)


def _little_rounding(patches: pytest.MonkeyPatch) -> None:
    correct = arithmetic.logit_rounding
    patches.setattr(arithmetic, "logit_rounding", lambda *arguments: correct(*arguments) * 1e-9)


FALSIFIED: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
    "norms": (_half_norms, "layer '1' (Conv2d): "),
    "margins": (_shifted_margins, "pgd found an executed margin of "),
    "rounding": (_little_rounding, "executed logits differ from those of float64 by "),
}


@pytest.mark.parametrize("case", FALSIFIED)
def test_falsified_certificates_are_refuted(
    home: Path, soundness: Command, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    falsify, sentence = FALSIFIED[case]
    falsify(monkeypatch)
    outcome = soundness(OWN, *FEW)
    assert outcome.exit == 1
    assert sentence in outcome.stderr.partition("error: Refuted: ")[2]
    assert "Traceback" not in outcome.stderr
    assert any(sentence in each for each in json.loads(FOUND.read_text())["refuted"])


CASES = {
    "no checkpoint": ("epsilon=0.1", "checkpoint=PATH"),
    "missing checkpoint": ("checkpoint=missing.ckpt", "checkpoint=missing.ckpt: no such file"),
    "no data": ("checkpoint=plain.pth epsilon=0.1", "type data=NAME"),
    "no epsilon": ("checkpoint=plain.pth data=digits", "type epsilon=RADIUS"),
    "unknown data": (f"{OWN} data=faces", "faces"),
    "other model": (f"{OWN} model=4c3f", "but the network needs"),
    "epsilon zero": (f"{OWN} epsilon=0", "Expected `epsilon` > 0 and finite, got 0"),
    "two epsilons": (f"{OWN} epsilon=0.1,0.2", "Expected one `epsilon`, got [0.1, 0.2]"),
    "limit zero": (f"{OWN} limit=0", "Expected `limit` >= 1, got 0"),
    "norms negative": (f"{OWN} norms=-1", "Expected `norms` >= 0, got -1"),
    "no steps": (f"{OWN} steps=0", "Expected `steps` >= 1, got 0"),
    "no queries": (f"{OWN} queries=0", "Expected `queries` >= 1, got 0"),
    "batch size": (f"{OWN} batch_size=0", "Expected `batch_size` >= 1, got 0"),
    "unknown attack": (f"{OWN} attacks=[magic]", "Expected `attacks` to be some of pgd, apgd-ce"),
    "attack twice": (f"{OWN} attacks=[pgd,pgd]", "each once"),
    "no attack": (f"{OWN} attacks=[]", "Expected `attacks` to be some of"),
    "unknown device": (f"{OWN} device=abacus", "device=cpu"),
    "output is a file": (f"{OWN} output=plain.pth", "output=plain.pth cannot be made"),
    "unknown key": (f"{OWN} nonsense=1", "nonsense"),
    "wrong type": (f"{OWN} norms=many", "norms"),
}


@pytest.mark.parametrize("case", CASES)
def test_refused_in_one_sentence(home: Path, soundness: Command, case: str) -> None:
    arguments, reason = CASES[case]
    before = contents(home)
    outcome = soundness(*arguments.split())
    assert outcome.exit == 1
    assert "Traceback" not in outcome.stderr
    assert reason in outcome.stderr.partition("error: ")[2]
    assert contents(home) == before


def test_help_is_quick_to_start(tmp_path: Path) -> None:
    """Everything slow to import waits for a job."""
    program = "import sys; sys.argv = ['soundness', '--help']; from lipcert.commands.soundness import main; main()"
    done = python("-X", "importtime", "-c", program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "checkpoint=RUN/checkpoints/best.ckpt" in done.stdout
    assert "| torch\n" not in done.stderr


def test_it_runs_as_a_module(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", ["lipcert.soundness", OWN, "limit=2", "norms=0", "attacks=[random]", "queries=3"])
    runpy.run_module("lipcert.soundness", run_name="__main__")
    assert FOUND.is_file()
