"""`python -m lipcert.report`: its exit codes, what it says where, what it leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from lipcert.commands.report import THEMES, main
from lipcert.reporting import report
from tests.reporting.examples import METRICS, write_run
from tests.running import contents, python


def test_in_a_process_of_its_own(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    done = python("-m", "lipcert.report", "run", "absent", "--png", "light", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "The report is in report/report.html\n"
    assert done.stderr == "warning: absent: absent is no run: there is no such folder.\n"
    assert sorted(contents(tmp_path / "report")) == [
        *(f"figures/run/{key}.png" for key in ("accuracies", "lipschitz", "varying")),
        "report.html",
    ]
    assert b"python -m lipcert.report run absent" in contents(tmp_path / "report")["report.html"]


def test_the_report_of_one_run_is_written_into_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    for _ in range(2):
        main([str(run), "--png", "none"])
        assert capsys.readouterr().out == f"The report is in {run / 'report.html'}\n"
    assert (run / "report.html").is_file()
    assert (run / "results.json").is_file()


def test_nothing_to_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "empty"), "--output", str(tmp_path / "report")])
    assert stop.value.code == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: There is nothing to report on.")
    assert f"{tmp_path / 'empty'} is no run" in said.err
    assert not (tmp_path / "report").exists()


def test_no_runs_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert "RUN" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "run"), "--output", str(tmp_path / "file"), "--png", "none"])
    assert stop.value.code == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'file'}: ")


def test_broken_files_are_told_and_the_rest_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "a", metrics=METRICS + "3,what\n")
    (write_run(tmp_path / "b", seed=1) / "results.json").write_text("{")
    main([str(tmp_path), "--output", str(tmp_path / "report"), "--png", "none"])
    warnings = capsys.readouterr().err.splitlines()
    assert warnings == [
        "warning: a: metrics.csv: line 5 cannot be read and is left out of the curves.",
        "warning: b: The run is not finished: 3 of 3 epochs, no readable results.json.",
        next(line for line in warnings if "results.json is damaged" in line),
    ]
    text = (tmp_path / "report" / "report.html").read_text()
    assert all(line.removeprefix("warning: ").partition(": ")[2][:40] in text for line in warnings)


def test_a_report_replaces_an_earlier_one(tmp_path: Path) -> None:
    words = ["--output", str(tmp_path / "report"), "--png", "none"]
    main([str(write_run(tmp_path / "run", clean_accuracy=0.111)), *words])
    main([str(write_run(tmp_path / "new", clean_accuracy=0.222)), *words])
    text = (tmp_path / "report" / "report.html").read_text()
    assert "22.2" in text
    assert "11.1" not in text


def test_themes_are_those_that_are_drawn() -> None:
    assert set(THEMES) == set(report.THEMES)
