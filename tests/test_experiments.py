"""Pages of experiments/: their tables are what the runs beside them say."""

from __future__ import annotations

import runpy
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UNIFORM = ("comparison", "same_work", "fashionmnist_small", "fashionmnist_4c3f", "table6")
PAGES = {
    **{name: ("experiments/table.py", f"experiments/{name}") for name in UNIFORM},
    "table5": ("experiments/table.py", "experiments/comparison", "experiments/table5/README.md"),
    "table7": ("experiments/table7/table.py",),
    "tuning": ("experiments/tuning/table.py",),
}


@pytest.mark.parametrize("page", PAGES)
def test_tables_are_what_the_runs_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str) -> None:
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", list(PAGES[page]))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "table", raising=False)
    runpy.run_path(PAGES[page][0], run_name="__main__")
    written = (ROOT / "experiments" / page / "README.md").read_text()
    assert (tmp_path / "experiments" / page / "README.md").read_text() == written
    assert written.count("\n| ") > 3


def test_rows_are_named_by_their_experiments() -> None:
    for run in (ROOT / "experiments" / "comparison").glob("*_seed*"):
        row, _, seed = run.name.rpartition("_seed")
        typed = (run / ".hydra" / "overrides.yaml").read_text()
        assert f"experiment=comparison/{row}\n" in typed
        assert f"seed={seed}\n" in typed
