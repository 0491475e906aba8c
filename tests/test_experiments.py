"""Pages of experiments/: their tables are what was recorded; runs come into the table of runs, and out of it again."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.collect import collected, main, name_of, short_commit
from experiments.pages import MARKED, pages, written
from experiments.restore import chosen, restore
from experiments.runs import HERE, METRICS, TABLE, read, write
from experiments.tables import runs_of
from lipcert.reporting.groups import group_runs
from lipcert.reporting.reading import read_runs
from lipcert.reporting.runs import State

RUNS = read()
PAGES = {page.parent.name: page.read_text() for page in pages()}
NAMED_BY_SETTINGS = (
    "comparison",
    "comparison/timing",
    "same_work",
    "fashionmnist_small",
    "fashionmnist_4c3f",
    "table6",
)
NAMED_BY_SETTINGS += ("fashionmnist_small/timing", "fashionmnist_4c3f/timing", "fashionmnist_4c3f_published", "table7")
UNTABLED = ("certification/4c3f_bcp_local", "certification/4c3f_bcp_local_faster", "certification/small_gloro_local")


@pytest.mark.parametrize("page", PAGES)
def test_tables_are_what_was_recorded(page: str) -> None:
    assert written(PAGES[page], RUNS, HERE / page) == PAGES[page]
    assert MARKED.search(PAGES[page]) or page in ("figures", "gpu")
    assert (
        PAGES[page].count("<!-- table")
        == PAGES[page].count("<!-- end of table -->")
        == len(MARKED.findall(PAGES[page]))
    )


@pytest.mark.parametrize("page", [page for page in PAGES if any(run.name.startswith(f"{page}/") for run in RUNS)])
def test_a_run_that_changes_changes_its_page(page: str) -> None:
    """Accuracy and commit of every run stand on its page, of those of timing the seconds."""
    moved = [replace(run, commit=f"{place:07}") for place, run in enumerate(RUNS)]
    commits = written(PAGES[page], moved, HERE / page)
    for place, run in enumerate(RUNS):
        if run.name.partition("/")[0] == page and run.name not in UNTABLED:
            key, factor = ("seconds_per_epoch", 10) if run.experiment.endswith("/timing") else ("clean_accuracy", 1.1)
            key, factor = ("seconds_per_epoch", 10) if page == "table7" else (key, factor)
            changed = replace(run, results={**run.results, key: factor * run.results[key]})
            runs = [*RUNS[:place], changed, *RUNS[place + 1 :]]
            assert written(PAGES[page], runs, HERE / page) != PAGES[page], run.name
            assert (f"{place:07}" in commits) != run.experiment.endswith("/timing"), run.name


def test_runs_that_are_named_exist() -> None:
    names, rows = {run.name for run in RUNS}, {f"{run.experiment}/{run.row}" for run in RUNS}
    experiments = "|".join(PAGES)
    for page, text in PAGES.items():
        for name in re.findall(rf"`((?:{experiments})/[\w./]+)`", text):
            pattern = name.replace("ROW", r"[\w.]+").replace("_seedN", r"_seed\d").replace("...", r"[\w.]+")
            assert any(re.fullmatch(pattern, each) for each in names | rows), f"{page}: {name}"
    assert all(f"`{name}`" in PAGES["certification"] for name in UNTABLED)


def test_runs_are_whole() -> None:
    for run in RUNS:
        assert re.fullmatch(r"[0-9a-f]{7}", run.commit)
        assert run.overrides
        assert run.log
        assert run.metrics
        assert run.command.startswith("python -m lipcert.train ")


@pytest.mark.parametrize("experiment", NAMED_BY_SETTINGS)
def test_runs_are_named_by_their_settings(experiment: str) -> None:
    found = [run for run in RUNS if run.experiment == experiment]
    several = len({run.results["model"] for run in found}) > 1
    assert found
    for run in found:
        assert f"{experiment}/{name_of(run, several)}" == run.name
        assert run.typed("seed") in (str(run.results["seed"]), None)


def test_the_table_of_runs_is_as_it_is_written(tmp_path: Path) -> None:
    write(reversed(RUNS), tmp_path)
    for name in (TABLE, METRICS):
        assert (tmp_path / name).read_bytes() == (HERE / name).read_bytes()


def test_runs_come_out_and_in_again(tmp_path: Path) -> None:
    """Everything that is kept of a run, records included."""
    for experiment, names in (
        ("table7", ["table7"]),
        ("comparison", ["comparison/cap_seed0", "comparison/aol_maxmin_seed1"]),
    ):
        known = chosen(RUNS, names)
        for run in known:
            restore(run, tmp_path)
        again = sorted(collected([tmp_path / experiment], experiment, "fffffff"), key=lambda run: run.name)
        assert again == [replace(run, commit="fffffff") for run in known]
    assert set(again[-1].records) == {"afterwards", "backward"}


def test_restored_runs_make_a_report(tmp_path: Path) -> None:
    """What `lipcert.report` reads of restored folders: results, curves, and seeds of a row as one group."""
    for run in chosen(RUNS, ["table6", "comparison/standard_seed0"]):
        restore(run, tmp_path)
    found = read_runs([tmp_path / "table6", tmp_path / "comparison"])
    assert [run.state for run in found] == [State.COMPLETE] * 9
    assert [run.problems for run in found] == [()] * 9
    assert [len(group.runs) for group in group_runs(found)] == [2, 2, 2, 2, 1]
    recorded = next(run for run in RUNS if run.name == "comparison/standard_seed0")
    (standard,) = (run for run in found if run.word("method") == "standard")
    expected = [float(row["lipschitz/global"]) for row in recorded.metrics]
    assert list(standard.metrics["lipschitz/global"].values()) == expected


def test_a_run_is_taken_in_under_a_name(tmp_path: Path) -> None:
    folder = restore(RUNS[0], tmp_path)
    (run,) = collected([folder], "tuning/levers", "fffffff", "larger_weight")
    assert (run.name, run.experiment, run.row) == ("tuning/levers/larger_weight", "tuning/levers", "larger_weight")
    assert (run.results, run.metrics, run.log) == (RUNS[0].results, RUNS[0].metrics, RUNS[0].log)


def test_what_cannot_be_taken_in_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="Expected finished runs"):
        collected([tmp_path], "table6", "fffffff")
    for run in RUNS[:2]:
        restore(run, tmp_path)
    with pytest.raises(ValueError, match="Expected one finished run, got 2"):
        collected([tmp_path / RUNS[0].experiment], "table6", "fffffff", "name")
    with pytest.raises(ValueError, match="got two called"):
        write([RUNS[0], RUNS[0]], tmp_path)
    with pytest.raises(ValueError, match="Expected a run or an experiment"):
        chosen(RUNS, ["table6", "nothing"])
    with pytest.raises(ValueError, match="runs called table6/nothing_seedN"):
        runs_of(RUNS, "table6", "nothing")
    with pytest.raises(ValueError, match="Expected --commit to name a commit"):
        short_commit("no-such-commit")
    with pytest.raises(SystemExit, match="error: Expected --commit"):
        main(["table6", str(tmp_path), "--commit", "no-such-commit"])
    with pytest.raises(ValueError, match=r"Expected one of accuracies, .*got nonsense"):
        written("<!-- table: nonsense -->\n<!-- end of table -->", RUNS, tmp_path)
