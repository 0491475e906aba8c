"""`python -m lipcert.audit`: what it leaves and prints, that refuted claims end with 1, what it refuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from torch import nn

from lipcert.commands.audit import main
from lipcert.nn import Normalize
from tests.running import contents

OWN = ("checkpoint=mine.pth", "data=digits", "builder=audited_network:build", "starts=4", "steps=10", "limit=6")
FOUND = Path("audit/mine/audit.json")
SOURCE = """from torch import nn
from lipcert.nn import Normalize


def build():
    return nn.Sequential(Normalize([0.5], [0.25]), nn.Flatten(), nn.Linear(64, 10))
"""

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(name="audit")
def fixture_audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `lipcert.audit` in this process, beside the weights of a network of constant 4; returns code and output."""
    (tmp_path / "audited_network.py").write_text(SOURCE)
    model = nn.Sequential(Normalize([0.5], [0.25]), nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        nn.init.eye_(model[2].weight)
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def command(*arguments: str) -> tuple[int, str, str]:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["lipcert.audit", *arguments])
        code: Any = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return command


def test_what_holds_and_what_is_refuted(audit: Command) -> None:
    code, printed, error = audit(*OWN, "claimed=4.001")
    assert code == 0, error
    found = json.loads(FOUND.read_text())
    assert (found["refuted"], found["network"]["verdict"], found["images"]) == ([], "holds", 6)
    assert found["network"]["attacked"] == pytest.approx(4, rel=1e-3)
    assert [each["verdict"] for each in found["layers"]] == [None, None]
    for words in ("upper bound", "holds", "enlarges distances by 4", "0 of 6 test images of digits", "audit/mine"):
        assert words in printed
    code, _, error = audit(*OWN, "claimed=1.0")
    assert code == 1
    assert "error: Refuted: the network moves two points apart by 4" in error
    assert "layer '0' (Normalize)" in error
    assert len(json.loads(FOUND.read_text())["refuted"]) == 2
    code, _, error = audit(*OWN, "claimed=5", "claims={2:0.9}")
    assert code == 1
    assert "error: Refuted: layer '2' (Linear) moves two points apart by 1" in error


CASES = {
    "nothing claimed": ("", "Type claimed=1.0"),
    "zero": ("claimed=0", "Expected `claimed` to be a Lipschitz constant, a number > 0 and finite, got 0.0"),
    "negative": ("claimed=-1", "got -1.0"),
    "nan": ("claimed=nan", "got nan"),
    "infinite": ("claimed=inf", "got inf"),
    "layer's zero": ("claimed=1 claims={2:0}", "Expected `claims.2`"),
    "layer's word": ("claimed=1 claims={2:much}", "Expected `claims.2`"),
    "no mapping": ("claimed=1 claims=[1]", "Expected `claims` as 'claims={LAYER:CONSTANT}'"),
    "unknown layer": ("claimed=1 claims={head:1} output=.", "`claims` names 'head', which is no layer of the network"),
    "unknown bound": ("claimed=1 bounds=[tight]", "Expected `bounds` to be some of global, global_liplt"),
    "no steps": ("claimed=1 steps=0", "Expected `steps` >= 1, got 0"),
    "radius": ("claimed=1 epsilon=0.1", "epsilon"),
}


def test_refused_in_one_sentence(audit: Command) -> None:
    before = contents(Path())
    for arguments, reason in CASES.values():
        code, _, error = audit(*OWN, *arguments.split())
        assert code == 1
        assert "Traceback" not in error
        assert reason in error.partition("error: ")[2]
        assert {each for each in contents(Path()) if "__pycache__" not in each} == set(before)
