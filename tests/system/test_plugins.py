"""Modules that a user names are found where `python -m` finds them; what cannot be imported is said in a sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from torch import nn

from lipcert.data import SOURCES
from lipcert.recheck.program import compile_program
from lipcert.soundness.dense import segments
from lipcert.system.plugins import load_plugins, plugins_sha256


@pytest.fixture(autouse=True)
def fixture_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory, and paths and modules that are as before afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in ("", str(tmp_path))])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))


def test_a_module_of_the_working_directory_is_imported(tmp_path: Path) -> None:
    (tmp_path / "my_data.py").write_text("from lipcert.data import SOURCES\nSOURCES['mine'] = len\n")
    try:
        load_plugins(["my_data"])
        assert SOURCES["mine"] is len
    finally:
        SOURCES.pop("mine", None)


@pytest.mark.parametrize("code", [None, "import nowhere_to_be_found"])
def test_a_module_that_cannot_be_imported(code: str | None, tmp_path: Path) -> None:
    if code is not None:
        (tmp_path / "broken.py").write_text(code)
    with pytest.raises(ValueError, match=r"plugins=broken cannot be imported: No module named .*without \.py"):
        load_plugins(["broken"])


def test_layers_that_are_not_affine_end_a_linear_map() -> None:
    """A dense matrix of a map must not run across an activation that was added from outside."""
    model = nn.Sequential(nn.Linear(4, 3), nn.Hardtanh(), nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    assert {name: each.kind for name, each in segments(model, (4,)).items()} == {"1": "Linear", "3": "Linear"}


def test_the_check_refuses_what_it_was_not_told_of() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Softsign(), nn.Linear(3, 2)).eval()
    with pytest.raises(NotImplementedError, match=r"Layer '2' \(Softsign\) cannot be re-checked"):
        compile_program(model, (1, 2, 2))


def test_the_source_of_a_plugin_has_a_digest(tmp_path: Path) -> None:
    (tmp_path / "one_file.py").write_text("a = 1")
    (tmp_path / "of_files").mkdir()
    for name in ("__init__", "part"):
        (tmp_path / "of_files" / f"{name}.py").write_text("b = 1")
    names = ["one_file", "of_files"]
    load_plugins(names)
    before = plugins_sha256(names)
    (tmp_path / "one_file.py").write_text("a = 2")
    (tmp_path / "of_files" / "part.py").write_text("b = 2")
    after = plugins_sha256(names)
    assert list(before) == list(after) == names
    assert all(before[name] != after[name] for name in names)
