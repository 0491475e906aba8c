"""What jobs share: a trained network and the images that it is judged on, loaded once, and checks of settings."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import Tensor, nn

from lipcert.bounds import RULES, Bound, check_epsilon
from lipcert.certificates.batch_size import choose_batch_size
from lipcert.certificates.float64 import executed_dtype
from lipcert.checkpoints import LoadedNetwork, load_network, read_checkpoint
from lipcert.checkpoints.builders import builder_of
from lipcert.data import Split, load_again
from lipcert.records import Arithmetic, Data, Model
from lipcert.records.fingerprint import data_sha256, model_sha256
from lipcert.system.configuration import BUILT_IN, refuse_unknown
from lipcert.system.errors import refuse_below
from lipcert.system.execution import cover_execution
from lipcert.system.plugins import load_plugins

OF_SOURCES = ("root", "image_size", "channels", "partial", "dataset", "test_dataset")
"""Settings of `data` that decide which images there are."""


@dataclass(frozen=True)
class Subject:
    """What the settings of a job name: a trained network, test images and l2 radii.

    The network is in eval mode on `device`, images and labels are on the CPU. `data`: what records say of them;
    `epsilons`: in the order given, at least one; none for a job that takes none.
    """

    config: DictConfig
    checkpoint: Path
    network: LoadedNetwork
    split: Split
    data: Data
    epsilons: tuple[float, ...]
    device: torch.device

    @property
    def model(self) -> nn.Module:
        """The network itself."""
        return self.network.model

    @property
    def epsilon(self) -> float:
        """The first radius."""
        return self.epsilons[0]

    @property
    def arithmetic(self) -> Arithmetic:
        """Which arithmetic the margins cover, in numbers and in a sentence."""
        dtype = executed_dtype(self.model)
        return Arithmetic.of(str(dtype).removeprefix("torch."), torch.finfo(dtype).eps / 2)

    def said_of_model(self) -> Model:
        """Return what records say of the network: fingerprint, dtype it runs in, description."""
        return Model(model_sha256(self.model), self.arithmetic.executed, self.network.description)

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Return all images (N, C, H, W) and labels (N,) on the device."""
        return self.split.to(self.device)[:]

    def batch_size(self, bounds: Iterable[Bound]) -> int:
        """Return how many images to bound at a time, see `choose_batch_size`."""
        size, memory = self.config.batch_size, self.config.memory_gb
        separate = any(RULES[bound].across for bound in bounds)
        return choose_batch_size(self.model, self.data.image_shape, self.device, size, memory, separate)

    def output(self, kind: str) -> Path:
        """Return the folder asked for, else the one `beside` the checkpoint."""
        if self.config.output is not None:
            return Path(self.config.output)
        return beside(self.checkpoint, kind)


def beside(checkpoint: Path, kind: str) -> Path:
    """Return RUN/KIND/x for RUN/checkpoints/x.ckpt, else KIND/x in the checkpoint's folder."""
    folder = checkpoint.parent
    return (folder.parent if folder.name == "checkpoints" else folder) / kind / checkpoint.stem


def prepare(config: DictConfig, most_epsilons: int | None = 1) -> Subject:
    """Load everything that the settings of a job name, plugins first.

    Args:
        config: of one of the commands, see `NetworkConfig`.
        most_epsilons: how many radii the job takes; None for any number.

    Raises:
        ValueError, OSError: for settings or files that cannot be.
    """
    refuse_unknown(config)
    load_plugins(config.plugins)
    device = chosen_device(config.device)
    cover_execution(device)
    if config.checkpoint is None:
        raise ValueError("Which network? Type checkpoint=PATH, for example checkpoint=RUN/checkpoints/best.ckpt.")
    checkpoint = read_checkpoint(config.checkpoint)
    known = checkpoint.description
    epsilons = chosen_epsilons(config.epsilon, known, most_epsilons) if "epsilon" in config else ()
    name, limit = config.data.name or checkpoint.description.get("data"), config.data.limit_test
    if not isinstance(name, str):
        raise ValueError(f"checkpoint={config.checkpoint} names no data; type data=NAME for the data it is for.")
    refuse_below(1, {"limit": limit})
    settings: Any = OmegaConf.to_container(config.data, resolve=True)
    source = load_again(checkpoint.data, name, **{key: settings[key] for key in OF_SOURCES})
    if not len(source.test):
        raise ValueError(f"{name} has no test images; there is nothing to certify.")
    split = source.test.first(limit)
    pixels = data_sha256(*split[:])  # float32, as they are certified
    data = Data(name, "test", len(split), tuple(split.images.shape[1:]), source.num_classes, pixels)
    network = load_network(checkpoint, data.image_shape, data.num_classes, **chosen_network(config))
    network.model.to(device)
    return Subject(config, checkpoint.path, network, split, data, epsilons, device)


def chosen_network(config: DictConfig) -> dict[str, Any]:
    """Return what the settings say of the network, as `load_network` takes it.

    Raises:
        ValueError: for two builders.
    """
    model: Any = OmegaConf.to_container(config.model, resolve=True)
    if not any(model.get(key) for key in ("builder", "_target_")) or model["_target_"] == BUILT_IN:
        return {"model": model["name"], "activation": model["activation"], "builder": config.builder}
    builder, arguments = builder_of(model)
    if config.builder not in (None, builder):
        raise ValueError(f"Expected one builder, got builder={config.builder} and {builder}; leave one out.")
    return {"builder": builder, "arguments": arguments}


def chosen_epsilons(given: Any, description: Mapping[str, Any], most: int | None = None) -> tuple[float, ...]:
    """Return the radii asked for, `most` at most, else the one the checkpoint was trained for.

    Raises:
        ValueError: for none, for one twice, for too many, or for one that is no positive finite number.
    """
    wanted = description.get("epsilon") if given is None else given
    if wanted is None:
        raise ValueError("The checkpoint names no epsilon; type epsilon=RADIUS (l2, in pixels of [0, 1]).")
    values = list(wanted) if isinstance(wanted, ListConfig) else [wanted]
    if not values:
        raise ValueError("Expected at least one `epsilon`, got an empty list.")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"Expected `epsilon` to be a number or a list of numbers, got {value!r}.")
        check_epsilon(value)
    if len(set(values)) < len(values):
        raise ValueError(f"Expected each `epsilon` once, got {values}.")
    if most is not None and len(values) > most:
        raise ValueError(f"Expected one `epsilon`, got {values}; run the command once for each.")
    return tuple(map(float, values))


def chosen_device(name: str) -> torch.device:
    """Return the device asked for, for `auto` a GPU if there is one; raise ValueError for one that is not there."""
    kinds = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    chosen = kinds[-1] if name == "auto" else name
    if chosen.partition(":")[0] not in kinds:
        raise ValueError(f"`device`={name} is not there; use device=auto or device=cpu.")
    return torch.device(chosen)


def check_numbers(
    config: DictConfig, positive: Sequence[str] = (), not_negative: Sequence[str] = (), shares: Sequence[str] = ()
) -> None:
    """Raise ValueError naming a setting that is below 1, below 0, or outside of (0, 1)."""
    refuse_below(1, {name: config[name] for name in positive})
    refuse_below(0, {name: config[name] for name in not_negative})
    for name in shares:
        if not 0 < config[name] < 1:
            raise ValueError(f"Expected `{name}` in (0, 1), got {config[name]}.")


def check_choice(name: str, chosen: Sequence[str], known: Iterable[str]) -> None:
    """Raise ValueError unless at least one of the `known` values is chosen for setting `name`, and each once."""
    known = list(known)
    if not chosen or not set(chosen) <= set(known) or len(set(chosen)) < len(chosen):
        raise ValueError(f"Expected `{name}` to be some of {', '.join(known)}, each once, got {list(chosen)}.")


def make_folder(folder: Path) -> None:
    """Make the folder of a record; raise OSError, saying what to do, if it cannot be made or written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"output={folder} cannot be made ({error.strerror}); choose another output=DIR.") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"output={folder} cannot be written; choose another output=DIR.")
