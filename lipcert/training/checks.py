"""What a run checks before it starts, so that nothing fails once training is under way or over."""

import os
from collections.abc import Sequence

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from lipcert.bounds import check_epsilon
from lipcert.checkpoints.builders import builder_of, located
from lipcert.system.configuration import BUILT_IN, refuse_unknown, unknown_setting
from lipcert.system.errors import refuse_below
from lipcert.system.execution import MATMUL, cover_execution, refuse_execution
from lipcert.system.plugins import load_plugins
from lipcert.training.build import build_module
from lipcert.training.evaluation import EvaluationSettings
from lipcert.training.processes import started_apart, started_processes

CLIPPED = ("clipped_relu", "clipped_maxmin")
"""Activations with thresholds, which the sparsity loss is about."""

IMAGES = {
    "digits": ((1, 8, 8), 10),
    "photos": ((3, 32, 32), 10),
    "mnist": ((1, 28, 28), 10),
    "fashionmnist": ((1, 28, 28), 10),
    "cifar10": ((3, 32, 32), 10),
    "tinyimagenet": ((3, 64, 64), 200),
}
"""Shape of the images and number of classes of the data that have them by name."""


def check(config: DictConfig) -> None:
    """Refuse settings that would fail once training is under way.

    Raises:
        ValueError: saying what was expected, what came and what to set.
    """
    hydra = HydraConfig.get()
    refuse_unknown(config)
    load_plugins(config.plugins)
    check_epsilon(config.epsilon)
    check_devices(config.trainer.devices, config.trainer.accelerator)
    check_processes(config, hydra.overrides.hydra, hydra.mode == RunMode.MULTIRUN)
    check_settings(config)
    if config.logger.get("csv") is None:
        raise ValueError("`logger.csv`=null: a run without metrics.csv cannot be resumed or shown; leave it out.")
    check_network(config)
    check_evaluation()


def check_network(config: DictConfig) -> None:
    """Refuse a network of one's own before images are read: one that cannot be built, or has a layer without bounds.

    Of data whose images have no shape of their own it is left to when they are read.
    """
    if config.model._target_ == BUILT_IN and config.model.builder is None:
        return
    builder, _ = builder_of(OmegaConf.to_container(config.model, resolve=True))  # type: ignore[arg-type]
    located(builder)
    if config.data.name in IMAGES:
        with torch.random.fork_rng(devices=[]):
            build_module(config, *IMAGES[config.data.name])


def check_evaluation() -> None:
    """Raise ValueError where an evaluation would refuse to execute a network, as in `refuse_execution`."""
    device = torch.device("cpu")
    with cover_execution(device):
        refuse_execution({nn.Conv2d, nn.Linear}, device)


def check_devices(devices: int, accelerator: str) -> None:
    """Raise ValueError when more devices are asked for than there are."""
    cuda = torch.cuda.device_count() if accelerator in ("auto", "gpu", "cuda") else 0
    available = cuda or os.cpu_count() or 1
    kind = "GPUs" if cuda else "CPU cores"
    if accelerator in ("gpu", "cuda") and not cuda:
        raise ValueError(
            f"`trainer.accelerator`={accelerator}, but this machine has no GPU; use trainer.accelerator=cpu."
        )
    if not 1 <= devices <= available:
        raise ValueError(f"Expected 1 <= `trainer.devices` <= {available} ({kind} here), got {devices}.")


def check_processes(config: DictConfig, overrides: Sequence[str], multirun: bool) -> None:
    """Make sure that the processes of a run agree on the batch, on their number and on the run directory.

    `overrides`: of Hydra's own keys; `multirun`: whether the run is a job of a sweep.

    Raises:
        ValueError: saying what to set.
    """
    devices, nodes = config.trainer.devices, config.trainer.num_nodes
    refuse_below(1, {"trainer.num_nodes": nodes})
    wanted, started = devices * nodes, started_processes()
    split = f"`trainer.devices`={devices} x `trainer.num_nodes`={nodes}"
    if config.batch_size % wanted:
        lower = max(wanted, config.batch_size // wanted * wanted)
        raise ValueError(
            f"`batch_size`={config.batch_size} is that of all devices together and cannot be split over "
            f"{split} = {wanted}; set batch_size={lower} or another multiple of {wanted}, or fewer devices."
        )
    if int(os.environ.get("SUBMITIT_LOCAL_NTASKS", 1)) > 1:
        raise ValueError("submitit_local runs each job in one task; set hydra.launcher.tasks_per_node=1.")
    if started > 1 and started != wanted:
        raise ValueError(
            f"{started} processes were started for {split} = {wanted}; set trainer.devices to the processes of each "
            "machine and trainer.num_nodes to the machines, or start as many processes."
        )
    if nodes > 1 and not started_apart():
        raise ValueError(
            f"`trainer.num_nodes`={nodes}, but this process was started alone; start all with torchrun or SLURM."
        )
    if started_apart() and multirun and "SUBMITIT_EXECUTOR" not in os.environ:
        raise ValueError(
            f"{started} processes were started side by side, but a sweep is started once; "
            "let it start its jobs (hydra/launcher=submitit_slurm), or start each job by itself without -m."
        )
    if started_apart() and not multirun and not any(each.startswith("hydra.run.dir=") for each in overrides):
        raise ValueError(
            f"{started} processes were started side by side and must agree on the run directory: "
            "give hydra.run.dir=FOLDER, the same for all."
        )


def check_settings(config: DictConfig) -> None:
    """Raise ValueError for settings that would only fail later; methods name the activations that they can handle."""
    EvaluationSettings(**config.evaluation)
    if "max_epochs" in config.trainer:
        raise ValueError(unknown_setting("trainer.max_epochs", ()))
    if config.optimizer.get("lr") not in (None, config.schedule.initial_lr):
        raise ValueError("`optimizer.lr` would be overridden by the schedule: did you mean `schedule.initial_lr`?")
    if "16" in config.trainer.precision:
        raise ValueError(
            f"`trainer.precision`={config.trainer.precision} trains in half precision; bounds need 32-true."
        )
    if config.trainer.matmul not in MATMUL:
        raise ValueError(f"Expected `trainer.matmul` to be {' or '.join(MATMUL)}, got {config.trainer.matmul!r}.")
    try:
        instantiate(config.optimizer)([nn.Parameter(torch.zeros(1))])
    except TypeError as error:
        raise ValueError(
            f"`optimizer` has a setting that {config.optimizer._target_} does not take: {error}"
        ) from error
    method, activation = get_object(config.method["_target_"]), config.model.activation
    if activation is None:  # a network of one's own, whose layers `check_network` looks at
        return
    handled: tuple[str, ...] | None = getattr(method, "activations", None)
    if handled is not None and activation not in handled:
        pairs = " or ".join(f"model.activation={each}" for each in handled)
        raise ValueError(
            f"The bound of method={method.name} cannot handle {activation}: it works with {pairs}; "
            f"for {activation} take another method, bcp or gloro for example."
        )
    if config.sparsity.weight and not activation.startswith("clipped"):
        switches = [f"model.activation={each}" for each in CLIPPED if each in (handled or CLIPPED)]
        raise ValueError(
            f"`sparsity.weight`={config.sparsity.weight} needs clipped activations, not {activation}: "
            f"set {' or '.join([*switches, 'sparsity.weight=0'])}."
        )
