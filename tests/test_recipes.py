"""The published recipes, to the digit: Table 3 and section C of the appendix."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from lipcert.nn import ClippedMaxMin, ClippedReLU, build
from lipcert.system.configuration import config_folder
from lipcert.training.schedules import Schedule
from tests.composed import composed

CONF = Path(config_folder())

ROWS = (
    "schedule.initial_lr",
    "schedule.final_lr",
    "batch_size",
    "schedule.epsilon_train",
    "sparsity.weight",
    "sparsity.weight x sparsity.threshold_weight",  # lambda_theta counts only as a factor of lambda_sparse
    "schedule.warmup_epochs",
    "schedule.epochs",
    "schedule.decay_epoch",
    "schedule.ramp_epochs",
    "bound.iterations",
)
TABLE_3 = {
    "mnist": (0.001, 5e-6, 256, 1.58, 0.0, 0.0 * 0.0, 0, 300, 150, 150, 5),
    "cifar10": (0.001, 1e-6, 256, 0.1551, 0.0, 0.0 * 0.0, 20, 800, 400, 400, 2),
    "tinyimagenet": (2.5e-4, 5e-7, 128, 0.16, 0.01, 0.01 * 0.1, 0, 250, 150, 125, 1),
    "tinyimagenet_maxmin": (1e-4, 5e-7, 128, 0.16, 0.01, 0.01 * 0.1, 0, 250, 150, 125, 3),
}
EPSILON = {"mnist": 1.58, "cifar10": float(Fraction(36, 255)), "tinyimagenet": float(Fraction(36, 255))}
"""Of certification (Table 4)."""
CROP_PADDING = {"mnist": 0, "cifar10": 4, "tinyimagenet": 4}
METHOD = {"mnist": "GloRo", "cifar10": "BCP", "tinyimagenet": "BCP"}
"""Section C.2, "Reproducibility"."""

PAIRS = [("mnist", "4c3f"), ("cifar10", "4c3f"), ("cifar10", "6c2f"), ("tinyimagenet", "8c2f")]
EXPERIMENTS = {
    "mnist_4c3f": ("mnist", "4c3f", "clipped_relu", "mnist"),
    "cifar10_4c3f": ("cifar10", "4c3f", "clipped_relu", "cifar10"),
    "cifar10_6c2f": ("cifar10", "6c2f", "clipped_relu", "cifar10"),
    "cifar10_4c3f_maxmin": ("cifar10", "4c3f", "clipped_maxmin", "cifar10"),
    "cifar10_6c2f_maxmin": ("cifar10", "6c2f", "clipped_maxmin", "cifar10"),
    "tinyimagenet_8c2f": ("tinyimagenet", "8c2f", "clipped_relu", "tinyimagenet"),
    "tinyimagenet_8c2f_maxmin": ("tinyimagenet", "8c2f", "clipped_maxmin", "tinyimagenet_maxmin"),
}
"""Data, model, activation and column of Table 3."""
CIFAR_MAX_MIN = [(0.1, -0.1), (0.1, -0.15), (0.15, -0.15), (0.15, -0.15), (0.2, -0.2), (0.3, -0.3), (1.2, -1.2)]
HEADINGS = ("Source:", "Command:", "Baseline:", "Hardware:", "Hours:", "Expected:")


def _compose(*overrides: str) -> DictConfig:
    config = composed(*overrides)
    assert OmegaConf.get_type(config).__name__ == "TrainConfig"
    return config


def _value(config: DictConfig, row: str) -> Any:
    if " x " in row:
        first, second = (OmegaConf.select(config, key) for key in row.split(" x "))
        return first * second
    return OmegaConf.select(config, row)


def _check_column(config: DictConfig, column: str) -> None:
    found = {row: _value(config, row) for row in ROWS}
    assert found == dict(zip(ROWS, TABLE_3[column], strict=True))
    data = config.data.name
    assert (config.epsilon, config.data.crop_padding) == (EPSILON[data], CROP_PADDING[data])
    optimizer = instantiate(config.optimizer)([nn.Parameter(torch.zeros(1))])
    assert isinstance(optimizer, torch.optim.Adam)
    defaults = optimizer.defaults
    assert (defaults["lr"], defaults["betas"], defaults["weight_decay"]) == (TABLE_3[column][0], (0.9, 0.999), 0)
    assert config.evaluation.pgd_steps == 100
    assert config.model.threshold is None  # the published ones, see `test_initial_thresholds`
    assert config.bound.clip_input is False
    assert (config.bound.skip_every, config.bound.box_gradients) == (0, True)  # the paper's algorithm


@pytest.mark.parametrize(("data", "model"), PAIRS)
def test_a_pair_picks_up_its_column(data: str, model: str) -> None:
    config = _compose(f"data={data}", f"model={model}")
    _check_column(config, data)
    assert (config.model.activation, config.bound.name) == ("clipped_relu", "local")


def test_four_devices() -> None:
    config = _compose("model=8c2f", "data=tinyimagenet", "trainer.devices=4")
    _check_column(config, "tinyimagenet")
    assert config.trainer.devices == 4
    assert config.batch_size / config.trainer.devices == 32


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments(name: str) -> None:
    data, model, activation, column = EXPERIMENTS[name]
    config = _compose(f"experiment={name}")
    assert (config.data.name, config.model.name, config.model.activation) == (data, model, activation)
    assert config.bound.name == "local"
    assert type(instantiate(config.method)).__name__ == METHOD[data]
    _check_column(config, column)


@pytest.mark.parametrize(("data", "model"), PAIRS)
def test_a_recipe_leaves_the_method_to_the_user(data: str, model: str) -> None:
    """Recipes come after the groups: one that set `method` would beat what was typed."""
    for method, name in (("bcp", "BCP"), ("gloro", "GloRo"), ("standard", "Standard")):
        config = _compose(f"data={data}", f"model={model}", f"method={method}", "bound=tight")
        assert type(instantiate(config.method)).__name__ == name
        assert config.bound.name == "tight"


@pytest.mark.parametrize("name", [*EXPERIMENTS, "cifar10_6c2f_200"])
def test_what_is_typed_beats_an_experiment(name: str) -> None:
    config = _compose(
        f"experiment={name}", "bound=global", "method=standard", "sparsity.weight=0.03", "schedule.epochs=3", "seed=2"
    )
    assert type(instantiate(config.method)).__name__ == "Standard"
    assert (config.bound.name, config.sparsity.weight) == ("global", 0.03)
    assert (config.schedule.epochs, config.seed) == (3, 2)
    assert config.bound.iterations == _compose(f"experiment={name}").bound.iterations


@pytest.mark.parametrize("override", ["data=digits", "experiment=same_work", "experiment=comparison/bcp_local"])
def test_other_runs_leave_out_what_gains_nothing(override: str) -> None:
    bound = _compose(override).bound
    assert (bound.skip_every, bound.box_gradients) == (20, False)


def test_a_published_run_may_leave_out_what_gains_nothing() -> None:
    assert _compose("experiment=cifar10_6c2f", "bound.skip_every=20").bound.skip_every == 20


@pytest.mark.parametrize("data", ["mnist", "cifar10"])
def test_sparsity_can_be_added(data: str) -> None:
    config = _compose(f"experiment={data}_4c3f", "sparsity=published")
    assert (config.sparsity.weight, config.sparsity.threshold_weight) == (0.01, 0.1)


def test_figures_6_and_7() -> None:
    """Section C.2: 200 epochs, 10 of warm-up, the learning rate halved every 10 epochs from the 121st on."""
    config = _compose("experiment=cifar10_6c2f_200")
    assert (config.bound.skip_every, config.bound.box_gradients) == (0, True)
    assert (config.data.name, config.model.name, config.model.activation) == ("cifar10", "6c2f", "clipped_relu")
    assert type(instantiate(config.method)).__name__ == "BCP"
    assert (config.bound.name, config.batch_size) == ("local", 128)
    schedule = Schedule(**OmegaConf.to_container(config.schedule, resolve=True))  # type: ignore[arg-type]
    assert (schedule.epochs, schedule.warmup_epochs) == (200, 10)
    assert schedule.epsilon_train == config.epsilon == 36 / 255
    assert schedule.epsilon(10) == 0
    assert schedule.epsilon(120) == schedule.epsilon_train
    batches = 391
    for epoch in range(1, 201):
        halvings = 0 if epoch < 121 else 1 + (epoch - 121) // 10
        for batch in (0, batches // 2, batches - 1):
            found = schedule.learning_rate(epoch - 1 + batch / batches)
            assert found == pytest.approx(1e-3 / 2**halvings, rel=1e-12), (epoch, batch)


TABLE_5 = {
    "cifar10_6c2f_global": ("bound", "global", "BCP"),
    "cifar10_6c2f_standard": ("method", "local", "Standard"),
    "cifar10_6c2f_adversarial": ("method", "local", "Adversarial"),
    "cifar10_6c2f_trades": ("method", "local", "TRADES"),
}
"""What each row changes, its bound and its method."""


@pytest.mark.parametrize("name", TABLE_5)
def test_rows_of_table_5_change_one_thing(name: str) -> None:
    row, ours = _compose(f"experiment={name}"), _compose("experiment=cifar10_6c2f")
    _check_column(row, "cifar10")
    changed = {key for key in ours if row[key] != ours[key]}
    group, bound, method = TABLE_5[name]
    assert changed == {group}
    assert (row.bound.name, type(instantiate(row.method)).__name__) == (bound, method)


@pytest.mark.parametrize("name", [*EXPERIMENTS, "cifar10_6c2f_200", *TABLE_5])
def test_experiments_say_what_they_are(name: str) -> None:
    lines = (CONF / "experiment" / f"{name}.yaml").read_text().splitlines()
    opening = lines[: lines.index("defaults:")]
    assert all(line.startswith("#") for line in opening)
    found = [heading for heading in HEADINGS for line in opening if line.startswith(f"# {heading}")]
    assert found == list(HEADINGS)
    for line in opening:
        if "python -m lipcert.train" in line:
            words = line.split("lipcert.train", 1)[1].split()
            assert f"experiment={name}" in words
            _compose(*[word.split(",")[0] for word in words if word != "-m"])


def test_the_8c2f_of_tiny_imagenet() -> None:
    model = build("8c2f", (3, 64, 64), 200)
    linear = [tuple(layer.weight.shape) for layer in model if isinstance(layer, nn.Linear)]
    assert linear == [(256, 9216), (200, 256)]
    assert len([layer for layer in model if isinstance(layer, nn.Conv2d)]) == 8


@pytest.mark.parametrize(("data", "model", "threshold"), [(*PAIRS[i], t) for i, t in enumerate((1.0, 1.0, 2.0, 1.0))])
def test_initial_thresholds(data: str, model: str, threshold: float) -> None:
    config = _compose(f"data={data}", f"model={model}")
    shape = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32), "tinyimagenet": (3, 64, 64)}[data]
    network = build(config.model.name, shape, 10, config.model.activation, config.model.threshold)
    thresholds = [layer.threshold for layer in network if isinstance(layer, ClippedReLU)]
    assert thresholds
    assert all(bool((values == threshold).all()) for values in thresholds)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("cifar10_6c2f_maxmin", (3, 32, 32), CIFAR_MAX_MIN),
        ("tinyimagenet_8c2f_maxmin", (3, 64, 64), [(t, -t) for t in (0.8, 1.0, 1.4, 1.4, 1.4, 1.6, 2.0, 3.0, 1.6)]),
    ],
)
def test_initial_max_and_min(name: str, shape: tuple[int, ...], expected: list[tuple[float, float]]) -> None:
    config = _compose(f"experiment={name}")
    network = build(config.model.name, shape, 10, config.model.activation, config.model.threshold)
    layers = [layer for layer in network if isinstance(layer, ClippedMaxMin)]
    found = [(layer.max.detach().mean().item(), layer.min.detach().mean().item()) for layer in layers]
    assert found == [pytest.approx(pair, rel=1e-5) for pair in expected]


@pytest.mark.parametrize("data", METHOD)
def test_data_alone_picks_the_published_method_and_a_typed_one_wins(data: str) -> None:
    assert _compose(f"data={data}").method["_target_"] == f"lipcert.losses.{METHOD[data]}"
    other = {"GloRo": "bcp", "BCP": "gloro"}[METHOD[data]]
    assert _compose(f"data={data}", f"method={other}").method["_target_"].lower() == f"lipcert.losses.{other}"


def test_every_data_set_has_a_method() -> None:
    for path in (CONF / "data").glob("*.yaml"):
        assert _compose(f"data={path.stem}").method["_target_"].startswith("lipcert.losses.")


def test_the_activation_alone_picks_its_column() -> None:
    config = _compose("data=tinyimagenet", "model=8c2f", "model.activation=clipped_maxmin")
    for row, expected in zip(ROWS, TABLE_3["tinyimagenet_maxmin"], strict=True):
        assert _value(config, row) == pytest.approx(expected), row
