"""`scale=smoke`: every experiment and every sweep runs to its end, as it is but for size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from lipcert.system.configuration import config_folder, register
from tests.composed import composed
from tests.data.test_tinyimagenet import TOP
from tests.data.test_tinyimagenet import _write_folder as write_tiny_imagenet
from tests.running import train_each

CONF = Path(config_folder())
EXPERIMENTS = [path.stem for path in sorted((CONF / "experiment").glob("*.yaml"))]
SWEEPS = [path.stem for path in sorted((CONF / "sweep").glob("*.yaml"))]
HEADINGS = ("Source:", "Command:", "Hardware:", "Hours:", "Expected:")
SMOKE = ("scale=smoke", "callbacks=quiet")
LEAST = ("data.limit_train=2", "batch_size=2", "schedule.epochs=1", "evaluation.lanczos_steps=1", "data.limit_test=1")
ROWS = ("adversarial", "cap", "relu_stability", "crm_liplt", "gloro_global_own", "crm_global_tuned", "aol_cll_maxmin")
"""Rows of the comparison that say something no experiment does; `tests/system/test_rows.py` composes all."""

TYPED = {
    "comparison": (*LEAST, "experiment=" + ",".join(f"comparison/{row}" for row in ROWS)),
    "table4": ("experiment=mnist_4c3f,cifar10_4c3f",),
    "table5": LEAST,
    "table6": (*LEAST, "sparsity.weight=0,0.1"),
    "table7": (*LEAST, "bound=global"),
}
"""What is typed beside a sweep; jobs of tables 4 and 5 are experiments, the others run alone, by the local bound."""

JOBS = {"comparison": len(ROWS), "table4": 4, "table5": 5, "table6": 2, "table7": 4}
"""How many a sweep has then."""


@pytest.fixture(scope="module", name="sweeps")
def fixture_sweeps(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    """The folder of all sweeps, and how each ended."""
    folder = tmp_path_factory.mktemp("sweeps")
    lines = [[f"sweep={name}", *SMOKE, *TYPED[name]] for name in SWEEPS]
    return folder / "sweeps", dict(zip(SWEEPS, train_each(lines, folder), strict=True))


@pytest.fixture(scope="module", name="runs")
def fixture_runs(
    sweeps: tuple[Path, dict[str, dict[str, Any]]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The folders of all experiments, some of them jobs of a sweep, and of Tiny-ImageNet in its own layout."""
    folder = tmp_path_factory.mktemp("experiments")
    found = {}
    for name in ("table4", "table5"):
        for job in json.loads((sweeps[0] / f"{name}-smoke" / "sweep.json").read_text())["jobs"]:
            said = dict(each.split("=", 1) for each in job["overrides"])
            if said.get("seed", "0") == "0":
                found[said["experiment"]] = sweeps[0] / f"{name}-smoke" / job["folder"]
    others = [name for name in EXPERIMENTS if name not in found]
    lines = [[f"experiment={name}", *SMOKE, *LEAST, f"hydra.run.dir={name}"] for name in others]
    write_tiny_imagenet(folder / "archive" / TOP)
    typed = ["data.name=tinyimagenet", f"data.root={folder / 'archive'}", "hydra.run.dir=generated"]
    lines.append(["experiment=tinyimagenet_8c2f", *SMOKE, *LEAST, *typed])
    for name, outcome in zip([*others, "generated"], train_each(lines, folder), strict=True):
        assert outcome["exit"] == 0, (name, outcome["stderr"])
    return {**found, **{name: folder / name for name in (*others, "generated")}}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_runs(runs: dict[str, Path], name: str) -> None:
    results = json.loads((runs[name] / "results.json").read_text())
    full = composed(f"experiment={name}")
    assert results["data"] == ("digits" if full.data.name in ("mnist", "fashionmnist") else "photos")
    kept = (full.model.name, full.model.activation, full.bound.name, full.epsilon, full.seed)
    assert tuple(results[key] for key in ("model", "activation", "bound", "epsilon", "seed")) == kept
    assert results["method"].removesuffix("_published").lower() in full.method["_target_"].lower()
    assert (results["num_test"], results["epochs"]) in ((2, 2), (1, 1))  # jobs of a sweep, and by themselves


def test_tiny_imagenet_in_its_own_layout(runs: dict[str, Path]) -> None:
    results = json.loads((runs["generated"] / "results.json").read_text())
    assert (results["data"], results["model"], results["num_test"]) == ("tinyimagenet", "8c2f", 1)


@pytest.mark.parametrize("name", SWEEPS)
def test_every_sweep_runs(sweeps: tuple[Path, dict[str, dict[str, Any]]], name: str) -> None:
    folder, outcomes = sweeps
    assert outcomes[name]["exit"] == 0, outcomes[name]["stderr"]
    sweep = folder / f"{name}-smoke"
    jobs = json.loads((sweep / "sweep.json").read_text())["jobs"]
    assert [job["state"] for job in jobs] == ["complete"] * JOBS[name]
    assert len({job["folder"] for job in jobs}) == JOBS[name]
    rows = (sweep / "table.md").read_text().splitlines()[2:]
    assert len(rows) == JOBS[name] // (2 if name == "table4" else 1)
    assert all(("±" in row) == (name == "table4") for row in rows)


@pytest.mark.parametrize("name", SWEEPS)
def test_sweeps_say_what_they_are(name: str) -> None:
    lines = (CONF / "sweep" / f"{name}.yaml").read_text().splitlines()
    found = [heading for heading in HEADINGS for line in lines if line.startswith(f"# {heading}")]
    assert found == list(HEADINGS)
    assert f"# Command:  python -m lipcert.train sweep={name}" in lines


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_only_the_size_changes(name: str) -> None:
    full, smoke = composed(f"experiment={name}"), composed(f"experiment={name}", "scale=smoke")
    changed = {key for key in full if full[key] != smoke[key]}
    assert changed <= {"data", "batch_size", "schedule", "trainer", "evaluation", "callbacks"}
    assert full.schedule.initial_lr == smoke.schedule.initial_lr
    assert full.schedule.epsilon_train == smoke.schedule.epsilon_train


@pytest.mark.parametrize("name", ["mnist_4c3f", "cifar10_6c2f", "tinyimagenet_8c2f"])
def test_the_full_scale_says_nothing(name: str) -> None:
    assert composed(f"experiment={name}", "scale=full") == composed(f"experiment={name}")


def test_every_published_data_set_has_a_stand_in() -> None:
    for path in (CONF / "data").glob("*.yaml"):
        if path.stem in ("dataset", "imagefolder", "npz"):  # images of one's own stand for themselves
            continue
        assert composed(f"data={path.stem}", "scale=smoke").data.name in ("digits", "photos")


def test_full_sizes_of_sweeps() -> None:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        params = {
            name: compose("train", [f"sweep={name}"], return_hydra_config=True).hydra.sweeper.params for name in SWEEPS
        }
    assert params["table4"].seed == "0,1,2"
    assert len(params["table4"].experiment.split(",")) == 4
    assert params["table6"]["sparsity.weight"] == "0,0.01,0.03,0.1"
    assert params["table7"].method == "gloro,bcp"
    assert params["table7"].bound == "global,local"
