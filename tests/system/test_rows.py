"""Tables of experiments: a row is what its overrides say, typed behind the base."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from lipcert.system.configuration import config_folder, experiments, read_rows, register
from tests.composed import composed

CONF = Path(config_folder())
COMPARISON = read_rows(CONF / "experiment" / "comparison")


@pytest.mark.parametrize("row", ["standard", "cap", "gloro_global_own", "crm_liplt_tuned", "aol_maxmin"])
def test_a_row_is_what_one_would_type(row: str) -> None:
    assert composed(f"experiment=comparison/{row}") == composed("experiment=comparison/base", *COMPARISON[row])


def test_what_is_typed_beats_a_row() -> None:
    config = composed("experiment=comparison/crm_global_tuned", "bound=local", "method=crm", "method.weight=2")
    assert (config.bound.name, config.method.weight, config.schedule.initial_lr) == ("local", 2, 5e-3)


def test_a_row_keeps_what_the_base_says() -> None:
    row, base = composed("experiment=comparison/aol_maxmin"), composed("experiment=comparison/base")
    assert {key for key in base if row[key] != base[key]} == {"model", "method", "bound"}
    assert (row.model.activation, row.model.parametrization, row.evaluation.autoattack_images) == (
        "maxmin",
        "aol",
        1000,
    )


def test_a_sweep_runs_all_rows() -> None:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", ["sweep=comparison"], return_hydra_config=True)
    params = OmegaConf.to_container(config.hydra.sweeper.params, resolve=True)
    assert params == {"seed": "0,1", "experiment": ",".join(f"comparison/{row}" for row in COMPARISON)}
    assert len(COMPARISON) == 25


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    """Folders of `conf` are groups, whose options go into the defaults list; the rest are settings."""
    (tmp_path / "method").mkdir()
    table = tmp_path / "experiment" / "mine"
    table.mkdir(parents=True)
    (table / "rows.yaml").write_text("first: method=crm method.weight=7\nsecond: seed=3\n")
    base = "/experiment/mine/base"
    assert list(experiments(tmp_path)) == [
        ("mine", "first", {"defaults": [base, {"override /method": "crm"}, "_self_"], "method": {"weight": 7}}),
        ("mine", "second", {"defaults": [base, "_self_"], "seed": 3}),
    ]
