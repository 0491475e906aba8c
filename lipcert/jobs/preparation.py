"""A trained network and the test images that a job is about, loaded once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from lipcert.certificates.batch_size import choose_batch_size
from lipcert.checkpoints import LoadedNetwork, load_network, read_checkpoint
from lipcert.data import Split, load_images
from lipcert.jobs.record import describe_data
from lipcert.jobs.settings import (
    chosen_data,
    chosen_device,
    chosen_epsilons,
    chosen_images,
    required_checkpoint,
)
from lipcert.records import Data
from lipcert.system.configuration import refuse_unknown
from lipcert.system.plugins import load_plugins


@dataclass(frozen=True)
class Subject:
    """A trained network, test images and l2 radii.

    Attributes:
        checkpoint: the network's file.
        network: in eval mode, on the device.
        split: the images and labels, on the CPU.
        data: what records say of them.
        epsilons: in the order given, at least one.
        device: of the network.
    """

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

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Return all images (N, C, H, W) and labels (N,) on the device."""
        images, labels = self.split[:]
        return images.to(self.device), labels.to(self.device)

    def batch_size(self, config: DictConfig, separate: bool) -> int:
        """Return how many images to bound at a time by the settings of a job; see `choose_batch_size`."""
        shape, size = self.data.image_shape, config.batch_size
        return choose_batch_size(self.model, shape, self.device, size, config.memory_gb, separate)


def prepare(config: DictConfig, most_epsilons: int | None = 1) -> Subject:
    """Load everything that the settings of a job name, plugins first.

    Args:
        config: of one of the commands, see `TrainedNetworkConfig`.
        most_epsilons: how many radii the job takes; None for any number.

    Raises:
        ValueError, OSError: for settings or files that cannot be.
    """
    refuse_unknown(config)
    load_plugins(config.plugins)
    device, checkpoint = chosen_device(config.device), read_checkpoint(required_checkpoint(config))
    epsilons = chosen_epsilons(config.epsilon, checkpoint.description, most_epsilons)
    name = chosen_data(config, checkpoint.description)
    source = load_images(name, config.data.root)
    split = chosen_images(source, name, config.data.limit_test)
    data = describe_data(name, split, source.num_classes)
    network = load_network(
        checkpoint, data.image_shape, data.num_classes, config.model.name, config.model.activation, config.builder
    )
    network.model.to(device)
    return Subject(checkpoint.path, network, split, data, epsilons, device)
