"""Tables over runs: groups, means and deviations against numpy, several data sets, missing runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lipcert.reporting.groups import by_data_set, group_runs
from lipcert.reporting.reading import read_runs
from lipcert.reporting.tables import Table, mean_and_deviation, tables
from tests.reporting.examples import write_run


def _tables(folder: Path) -> dict[str, Table]:
    return {table.title: table for table in tables(by_data_set(group_runs(read_runs([folder]))))}


def _column(table: Table, head: str) -> list[str]:
    return [row[table.columns.index(head)] for row in table.rows]


def test_mean_and_sample_deviation_over_seeds(tmp_path: Path) -> None:
    certified = {"bcp": [0.31, 0.42, 0.4], "gloro": [0.5]}
    for method, values in certified.items():
        for seed, value in enumerate(values):
            write_run(tmp_path / f"{method}{seed}", method=method, seed=seed, certified_accuracy=value)
    table = _tables(tmp_path)["Accuracies on digits"]
    assert table.columns[:3] == ("method", "seeds", "clean %")
    assert _column(table, "method") == ["bcp", "gloro"]
    assert _column(table, "seeds") == ["0, 1, 2", "0"]
    mean, deviation = 100 * np.mean(certified["bcp"]), 100 * np.std(certified["bcp"], ddof=1)
    assert _column(table, "certified %") == [f"{mean:.1f} ± {deviation:.1f}", "50.0"]
    assert _column(table, "by tight %") == ["71.8 ± 0.0", "71.8"]


def test_deviation_is_that_of_a_sample() -> None:
    assert mean_and_deviation([1.0, 2.0, 3.0], 1, 3) == "2.000 ± 1.000"
    assert mean_and_deviation([0.5]) == "50.0"
    assert mean_and_deviation([]) == "-"
    assert mean_and_deviation([1.52e9], 1, 2) == "1.52e+09"


def test_lipschitz_bounds_and_varying_neurons(tmp_path: Path) -> None:
    write_run(tmp_path / "a", global_lipschitz=4.0, varying_fraction={"1": 0.25, "3": 0.5})
    write_run(tmp_path / "b", global_lipschitz=2.0, varying_fraction={"1": 0.75, "3": 0.5}, seed=1)
    table = _tables(tmp_path)["Lipschitz bounds on digits"]
    assert _column(table, "L global") == [f"3.00 ± {np.std([4, 2], ddof=1):.2f}"]
    assert _column(table, "varying % by layer") == ["50 · 50"]


def test_sparsity(tmp_path: Path) -> None:
    for weight, certified in ((0.1, 0.3), (0.0, 0.1), (0.01, 0.2)):
        write_run(tmp_path / str(weight), {"sparsity": {"weight": weight}}, certified_accuracy=certified)
    table = _tables(tmp_path)["Weight of the sparsity loss on digits"]
    assert [(row[0], cell) for row, cell in zip(table.rows, _column(table, "certified %"), strict=True)] == [
        ("0.0", "10.0"),
        ("0.01", "20.0"),
        ("0.1", "30.0"),
    ]


def test_seconds(tmp_path: Path) -> None:
    write_run(tmp_path / "a", method="bcp", seconds_per_epoch=3.0)
    write_run(tmp_path / "b", method="gloro", seconds_per_epoch=1.0)
    write_run(tmp_path / "c", data="photos", method="bcp", seconds_per_epoch=9.0)
    table = _tables(tmp_path)["Seconds an epoch"]
    assert table.columns == ("data", "model", "activation", "bcp local", "gloro local")
    assert [(row[0], *row[3:]) for row in table.rows] == [("digits", "3.0", "1.0"), ("photos", "9.0", "-")]


def test_data_sets_are_kept_apart(tmp_path: Path) -> None:
    write_run(tmp_path / "a", certified_accuracy=0.25)
    write_run(tmp_path / "b", data="photos", certified_accuracy=0.75)
    found = _tables(tmp_path)
    assert _column(found["Accuracies on digits"], "certified %") == ["25.0"]
    assert _column(found["Accuracies on photos"], "certified %") == ["75.0"]


def test_missing_runs_are_counted_and_their_numbers_left_out(tmp_path: Path) -> None:
    write_run(tmp_path / "a", certified_accuracy=0.2)
    failed = write_run(tmp_path / "b", seed=1, certified_accuracy=0.9)
    (failed / "error.txt").write_text("ValueError: no.")
    (write_run(tmp_path / "c", seed=2) / "results.json").unlink()
    write_run(tmp_path / "d", seed=3, certified_accuracy=float("nan"))
    table = _tables(tmp_path)["Accuracies on digits"]
    assert _column(table, "seeds") == ["0, 3 (2 missing)"]
    assert _column(table, "certified %") == ["20.0"]


def test_groups_alike_in_words_are_named_by_what_differs(tmp_path: Path) -> None:
    for name, weight, where in (("a", 0.0, "/x"), ("b", 0.5, "/y")):
        settings = {
            "sparsity": {"weight": weight},
            "evaluation": {"pgd_steps": int(weight * 10)},
            "logger": {"csv": where},
        }
        write_run(tmp_path / name, settings)
    (data,) = by_data_set(group_runs(read_runs([tmp_path])))
    assert data.columns == ("sparsity.weight",)
    assert [name for name, _ in data.named_groups] == ["a", "b"]
    assert _column(_tables(tmp_path)["Accuracies on digits"], "run") == ["a", "b"]


def test_where_a_run_took_place_makes_no_group(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_run(tmp_path / name, {"logger": {"csv": name}, "resume": name, "report": name == "a"})
    (group,) = group_runs(read_runs([tmp_path]))
    assert len(group.runs) == 2
    assert group.doubled
