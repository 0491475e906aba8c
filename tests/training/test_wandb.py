"""Runs logged to W&B offline hold what `metrics.csv`, `results.json` and `.hydra` hold, and end as they ended."""

from __future__ import annotations

import csv
import json
import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from omegaconf import OmegaConf

from lipcert.training.logging.wandb import earlier_id, finished
from tests.running import QUICK, contents, forked, train, train_each
from tests.training.offline_runs import OfflineRun, offline_runs

LAYERS = ("1", "3", "6")
"""Activations of the small net: each closes a layer, and names it."""

LOGGED = {
    *("train/loss", "val/clean_accuracy", "val/certified_accuracy", "lipschitz/global", "lipschitz/local"),
    *(f"{quantity}/{layer}" for quantity in ("lipschitz", "varying") for layer in LAYERS),
    *("schedule/epsilon", "schedule/lambda", "schedule/learning_rate"),
}
BOUNDS = ("global", "local", "tight")
RUN = (*QUICK, "epsilon=0.1", "logger=wandb", "sparsity.weight=0.01")
CHEAP = ("data.limit_test=10", "evaluation.pgd_steps=0", "evaluation.bounds=[]")
STOP = ("+callbacks.stop._target_=tests.training.fits.StopAfter", "+callbacks.stop.epoch=0")
FAIL = ("+callbacks.fail._target_=tests.training.test_wandb.FailAfterAnEpoch",)


class FailAfterAnEpoch(pl.Callback):
    """Raises in the second epoch."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 1:
            raise ValueError("this run was to fail")


@pytest.fixture(scope="module", name="folder")
def fixture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs in one process: whole, failed, stopped after an epoch, resumed, and a sweep of two; none calls anybody."""
    folder = tmp_path_factory.mktemp("wandb")
    (folder / "home").mkdir()
    jobs = [
        [*RUN, "hydra.run.dir=whole"],
        [*RUN, *CHEAP, *FAIL, "hydra.run.dir=failed"],
        [*RUN, *CHEAP, *STOP, "hydra.run.dir=stopped", "logger.wandb.name=mine", "logger.wandb.tags=[extra]"],
        [*RUN, *CHEAP, "resume=stopped/checkpoints/last.ckpt", "hydra.run.dir=resumed"],
        ["-m", "bound=global,local", "hydra.sweep.dir=sweeps/both", *RUN, *CHEAP, "schedule.epochs=1"],
    ]
    environment = {"HOME": str(folder / "home"), "WANDB_API_KEY": "0" * 40, "NO_PROXY": "", "no_proxy": ""}
    environment["MPLCONFIGDIR"] = str(tmp_path_factory.mktemp("fonts"))  # torchmetrics imports matplotlib where it is
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = f"http://127.0.0.1:{server.getsockname()[1]}"
        addresses = dict.fromkeys(("WANDB_BASE_URL", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), here)
        outcomes = train_each(jobs, folder, **environment, **addresses)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody called
            server.accept()
    assert [each["exit"] for each in outcomes] == [0, 1, 0, 0, 0], outcomes
    assert "error: this run was to fail" in outcomes[1]["stderr"]
    return folder


@pytest.fixture(scope="module", name="whole")
def fixture_whole(folder: Path) -> OfflineRun:
    (run,) = offline_runs(folder / "whole")
    return run


def _metrics(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Return (epoch, value) pairs of each column of `metrics.csv`, in order."""
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {key: [(float(row["epoch"]), float(row[key])) for row in rows if row[key]] for key in rows[0]}


def _results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values under dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def test_curves_are_those_of_the_csv(folder: Path, whole: OfflineRun) -> None:
    expected = _metrics(folder / "whole")
    assert {key for key in expected if "/" in key} == LOGGED
    epochs = [row for row in whole.rows if "train/loss" in row]
    assert len(epochs) == 3
    for key in LOGGED:
        assert [row["epoch"] for row in epochs] == [epoch for epoch, _ in expected[key]] == [0, 1, 2], key
        assert [row[key] for row in epochs] == pytest.approx([value for _, value in expected[key]]), key
    assert whole.steps[:3] == [9, 19, 29]  # ten batches an epoch


def test_curves_are_over_epochs(whole: OfflineRun) -> None:
    assert whole.axes == {"epoch": None, "*": "epoch"}


def test_configuration_is_the_resolved_one(folder: Path, whole: OfflineRun) -> None:
    saved = OmegaConf.load(folder / "whole" / ".hydra" / "config.yaml")
    for key in ("logger", "callbacks"):
        assert set(whole.config[key]) == set(saved.pop(key))
    assert isinstance(saved, type(OmegaConf.create({})))
    assert "${" in OmegaConf.to_yaml(saved)
    logged = {key: value for key, value in whole.config.items() if key not in ("logger", "callbacks", "_wandb")}
    assert "${" not in json.dumps(whole.config)
    assert logged.keys() == saved.keys()
    assert logged["schedule"]["epsilon_train"] == pytest.approx(0.11)
    assert logged["schedule"]["ramp_epochs"] == 1.5
    assert (logged["sparsity"]["weight"], logged["data"]["limit_train"], logged["seed"]) == (0.01, 150, 0)
    assert whole.config["callbacks"]["last"]["dirpath"] == str(folder / "whole" / "checkpoints")


def test_summary_is_the_content_of_results(folder: Path, whole: OfflineRun) -> None:
    results = _flat(_results(folder / "whole"))
    assert len(results) > 20
    summary = _flat(whole.summary)
    for key, value in results.items():
        assert summary[key] == (pytest.approx(value) if isinstance(value, float) else value), key
    last = {key: pairs[-1][1] for key, pairs in _metrics(folder / "whole").items() if key in LOGGED}
    assert {key: whole.summary[key] for key in LOGGED} == pytest.approx(last)


def test_table_of_results(folder: Path, whole: OfflineRun) -> None:
    results, table = _results(folder / "whole"), whole.table("results")
    name = "digits_small_gloro_local_sparsity0.01_seed0"
    expected = {
        ("clean accuracy", ""): results["clean_accuracy"],
        ("accuracy under PGD", ""): results["pgd_accuracy"],
        ("global Lipschitz bound", ""): results["global_lipschitz"],
        ("mean local Lipschitz bound", ""): results["local_lipschitz_mean"],
        **{("certified accuracy", bound): results["certified_accuracy_by_bound"][bound] for bound in BOUNDS},
        **{("varying fraction", layer): results["varying_fraction"][layer] for layer in LAYERS},
    }
    assert table["columns"] == ["run", "quantity", "of", "value"]
    assert {(quantity, of): value for _, quantity, of, value in table["data"]} == pytest.approx(expected)
    assert len(table["data"]) == len(expected)
    assert {row[0] for row in table["data"]} == {name}


def test_names_of_runs(folder: Path, whole: OfflineRun) -> None:
    assert whole.stated["display_name"] == "digits_small_gloro_local_sparsity0.01_seed0"
    assert whole.stated["tags"] == ["digits", "small", "clipped_relu", "gloro", "local"]
    assert "run_group" not in whole.stated
    (stopped,) = offline_runs(folder / "stopped")
    assert stopped.stated["display_name"] == "mine"
    assert set(stopped.stated["tags"]) == {*whole.stated["tags"], "extra"}


def test_runs_end_as_they_ended(folder: Path, whole: OfflineRun) -> None:
    (failed,) = offline_runs(folder / "failed")
    assert (whole.exit_code, failed.exit_code) == (0, 1)
    assert [row["epoch"] for row in failed.rows] == [0]
    assert failed.rows[0].keys() >= LOGGED
    assert "certified_accuracy" not in failed.summary


def test_a_resumed_run_goes_on_under_its_id(folder: Path, whole: OfflineRun) -> None:
    (stopped,), (resumed,) = offline_runs(folder / "stopped"), offline_runs(folder / "resumed")
    assert resumed.stated["run_id"] == stopped.stated["run_id"] != whole.stated["run_id"]
    assert (folder / "resumed" / "wandb_id.txt").read_text().strip() == resumed.stated["run_id"]
    rows = [row for run in (stopped, resumed) for row in run.rows if "train/loss" in row]
    expected = [row for row in whole.rows if "train/loss" in row]
    assert rows == expected
    assert [*stopped.steps[:1], *resumed.steps[:2]] == whole.steps[:3]


def test_files_stay_in_the_run_directory(folder: Path) -> None:
    assert contents(folder / "home") == {}
    assert {path.name for path in folder.iterdir()} == {"home", "whole", "failed", "stopped", "resumed", "sweeps"}
    for name in ("whole", "failed"):
        assert list((folder / name / "wandb" / "local").rglob("core-debug-*.log"))


def test_panels_show_what_is_logged(whole: OfflineRun) -> None:
    from wandb_workspaces.reports.v2.interface import BarPlot, LinePlot, WeavePanelSummaryTable

    from lipcert.dashboard.panels import SECTIONS, X_AXIS

    panels = [panel for section in SECTIONS.values() for panel in section]
    shown: set[str] = set()
    logged = whole.rows[0].keys()
    for panel in panels:
        if isinstance(panel, LinePlot):
            matching = {key for key in logged if panel.metric_regex and re.search(panel.metric_regex, key)}
            assert set(panel.y) <= logged
            assert panel.y or len(matching) == len(LAYERS), panel
            shown |= {*panel.y, *matching}
        elif isinstance(panel, BarPlot):
            assert set(panel.metrics) <= whole.summary.keys()
        else:
            assert isinstance(panel, WeavePanelSummaryTable)
            assert whole.table(panel.table_name)["data"]
    assert X_AXIS in logged
    assert shown == LOGGED


def test_group_of_a_sweep(folder: Path, whole: OfflineRun) -> None:
    jobs = json.loads((folder / "sweeps" / "both" / "sweep.json").read_text())["jobs"]
    runs = [offline_runs(folder / "sweeps" / "both" / job["folder"])[0] for job in jobs]
    assert [run.stated["run_group"] for run in runs] == ["sweeps/both"] * 2
    names = [f"digits_small_gloro_{bound}_sparsity0.01_seed0" for bound in ("global", "local")]
    assert [run.stated["display_name"] for run in runs] == names
    assert [run.exit_code for run in runs] == [0, 0]
    assert all(run.rows[0].keys() == whole.rows[0].keys() for run in runs)


def test_wandb_is_imported_only_where_it_is_used(tmp_path: Path) -> None:
    arguments = ["lipcert.train", *QUICK, *CHEAP, "schedule.epochs=1", "data.limit_train=32", "hydra.run.dir=run"]
    script = f"import sys; sys.argv = {arguments!r}; from lipcert.commands.train import main; main(); "
    done = forked("-c", script + "sys.exit('wandb' in sys.modules)", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "results.json").is_file()


def test_a_broken_wandb_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken" / "wandb").mkdir(parents=True)
    (tmp_path / "broken" / "wandb" / "__init__.py").write_text("raise RuntimeError('half installed')\n")
    repository = Path(__file__).parents[2]
    path = f"{tmp_path / 'broken'}:{repository}"
    done = train(*RUN, "hydra.run.dir=run", cwd=tmp_path, PYTHONPATH=path)
    assert done.returncode == 1
    sentence = done.stderr.splitlines()[-1]
    assert sentence.startswith("error: logger=wandb needs the package wandb, which cannot be imported (half installed)")
    assert "pip install" in sentence
    assert not (tmp_path / "run" / "metrics.csv").exists()


def test_online_without_an_account(tmp_path: Path) -> None:
    """Refused before training, with what to do."""
    arguments = (*RUN, "logger.wandb.offline=false", "hydra.run.dir=run")
    done = train(*arguments, cwd=tmp_path, stdin="", HOME=str(tmp_path))
    assert done.returncode == 1
    assert "error: Weights & Biases did not start" in done.stderr
    assert "wandb login" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "metrics.csv").exists()


def test_only_rank_zero_logs(tmp_path: Path) -> None:
    script = (
        "from lipcert.training.logging.wandb import RunLogger; logger = RunLogger('.');"
        "logger.log_metrics({'train/loss': 1.0}, 1); logger.experiment.log({})"
    )
    folder = tmp_path / "run"
    folder.mkdir()
    fonts = str(tmp_path / "fonts")
    done = forked("-c", script, cwd=folder, LOCAL_RANK="1", HOME=str(folder), MPLCONFIGDIR=fonts)
    assert done.returncode == 0, done.stderr
    assert contents(folder) == {}


def test_earlier_id(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    checkpoint = old / "checkpoints" / "last.ckpt"
    for folder in (checkpoint.parent, new):
        folder.mkdir(parents=True)
    assert earlier_id(new, None) is None
    assert earlier_id(new, str(checkpoint)) is None
    (old / "wandb_id.txt").write_text("first\n")
    assert earlier_id(new, None) is None
    assert earlier_id(new, str(checkpoint)) == "first"
    (new / "wandb_id.txt").write_text("second\n")
    assert earlier_id(new, None) == "second"
    assert earlier_id(new, str(checkpoint)) == "first"


@pytest.mark.parametrize("variable", ["WANDB_DATA_DIR", "WANDB_MODE"])
@pytest.mark.parametrize("before", [None, "/elsewhere"])
def test_the_environment_is_restored(monkeypatch: pytest.MonkeyPatch, variable: str, before: str | None) -> None:
    monkeypatch.delenv(variable, raising=False)
    if before is not None:
        monkeypatch.setenv(variable, before)
    with finished():
        os.environ[variable] = "/inside"
    assert os.environ.get(variable) == before
