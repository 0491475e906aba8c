"""Configuration: everything in conf/ composes, recipes are picked up, mistakes are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lipcert.system import configuration
from lipcert.system.configuration import config_folder, register
from tests.composed import composed

CONF = Path(config_folder())
GROUPS = (
    *("bound", "callbacks", "data", "experiment", "logger", "method", "model", "optimizer", "scale", "sparsity"),
    *("sweep", "trainer"),
)
OPTIONS = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]
OPTIONS += [(group, name) for group, stored in configuration.OPTIONS.items() for name in stored]
RECIPES = [path.stem for path in sorted((CONF / "recipe").glob("*_*.yaml"))]
WRITTEN_AT_RUN_TIME = ("callbacks", "logger")
"""Groups that refer to the run's directory."""


def _resolved(config: DictConfig) -> dict[str, Any]:
    """Return all values, with everything that is mandatory there and every interpolation carried out."""
    kept = OmegaConf.masked_copy(config, [str(key) for key in config if key not in WRITTEN_AT_RUN_TIME])
    return OmegaConf.to_container(kept, resolve=True, throw_on_missing=True)  # type: ignore[return-value]


def test_no_group_is_forgotten() -> None:
    assert {path.name for path in CONF.iterdir() if path.is_dir()} == {*GROUPS, "recipe"}


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes(group: str, option: str) -> None:
    config = composed(f"{group}={option}")
    assert OmegaConf.get_type(config).__name__ == "TrainConfig"
    values = _resolved(config)
    if group in ("data", "model", "bound"):
        assert values[group]["name"] == option
    if group in WRITTEN_AT_RUN_TIME:
        assert len(config[group]) >= 1
    assert values["epsilon"] > 0


def _written(recipe: str) -> DictConfig:
    """Return what a recipe and those it builds on say."""
    content = yaml.safe_load((CONF / "recipe" / f"{recipe}.yaml").read_text())
    return OmegaConf.merge(*map(_written, content.pop("defaults", [])), content)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_picked_up(recipe: str) -> None:
    data, model = recipe.split("_")
    values = _resolved(composed(f"data={data}", f"model={model}"))
    written = _written(recipe)
    content: Any = OmegaConf.to_container(OmegaConf.create({**values, "written": written}).written, resolve=True)
    assert content
    for key, value in content.items():
        kept = {name: values[key][name] for name in value} if isinstance(value, dict) else values[key]
        assert kept == value, key


def test_table_3_mnist() -> None:
    config = composed("data=mnist", "model=4c3f")
    assert (config.batch_size, config.epsilon, config.bound.iterations) == (256, 1.58, 5)
    assert _resolved(config)["schedule"] == {
        "epochs": 300,
        "warmup_epochs": 0,
        "ramp_epochs": 150,
        "decay_epoch": 150,
        "initial_lr": 1e-3,
        "final_lr": 5e-6,
        "epsilon_train": 1.58,
        "decay_step": 0,
        "ramp": "linear",
    }
    assert config.sparsity.weight == 0


@pytest.mark.parametrize("model", ["4c3f", "6c2f"])
def test_table_3_cifar10(model: str) -> None:
    config = composed("data=cifar10", f"model={model}")
    assert (config.batch_size, config.bound.iterations) == (256, 2)
    assert config.epsilon == pytest.approx(36 / 255)
    assert _resolved(config)["schedule"] == {
        "epochs": 800,
        "warmup_epochs": 20,
        "ramp_epochs": 400,
        "decay_epoch": 400,
        "initial_lr": 1e-3,
        "final_lr": 1e-6,
        "epsilon_train": 0.1551,
        "decay_step": 0,
        "ramp": "linear",
    }
    assert config.data.crop_padding == 4


def test_an_override_wins_over_the_recipe() -> None:
    config = composed("data=mnist", "model=4c3f", "batch_size=32", "schedule.epochs=7", "bound.iterations=1")
    assert (config.batch_size, config.schedule.epochs, config.bound.iterations) == (32, 7, 1)
    assert config.schedule.epsilon_train == 1.58


def test_an_experiment_wins_over_the_recipe() -> None:
    config = composed("experiment=same_work")
    assert (config.data.name, config.model.name, config.data.limit_train) == ("fashionmnist", "small", 10_000)
    assert (config.epsilon, config.schedule.epsilon_train) == (0.5, 0.55)
    assert composed("experiment=same_work", "data.limit_train=5").data.limit_train == 5


@pytest.mark.parametrize(("value", "expected"), [("a", "first"), ("b", "second"), ("c", "second"), ("d", "none")])
def test_when_takes_the_first_case_that_fits(value: str, expected: str) -> None:
    register()
    config = OmegaConf.create({"value": value, "said": "${when:${value},a,first,[b,c],second,none}"})
    assert config.said == expected


def test_targets_follow_epsilon_and_epochs() -> None:
    """Without a recipe: epsilon 10 % above the one that is certified, ramps over half of the epochs."""
    config = composed("data=photos", "epsilon=0.2", "schedule.epochs=30")
    assert config.schedule.epsilon_train == pytest.approx(0.22)
    assert (config.schedule.ramp_epochs, config.schedule.decay_epoch) == (15, 15)


@pytest.mark.parametrize("override", ["logger=wandb", "logger=tensorboard"])
def test_csv_is_always_written(override: str) -> None:
    assert composed(override).logger.csv["_target_"].endswith("MetricsTable")


def test_wandb_is_offline_unless_asked() -> None:
    assert composed("logger=wandb").logger.wandb.offline is True


@pytest.mark.parametrize(
    "override",
    [
        "nonsense=1",
        "data.rot=/tmp",
        "schedule.epoch=3",
        "method.exlude=label",
        "trainer.device=2",
        "batch_size=many",
        "batch_size=1.5",
        "seed=zero",
        "epsilon=high",
        "resume=[a]",
        "report=perhaps",
        "data.limit_train=half",
        "model.threshold=low",
        "bound.clip_input=perhaps",
        "evaluation.bounds=local",
        "trainer.devices=auto",
        "model=vgg",
        "warm_start=shared",
        "bound.side=input",
        "experiment=missing",
    ],
)
def test_refused(override: str) -> None:
    with pytest.raises((HydraException, OmegaConfBaseException)):
        composed(override)
