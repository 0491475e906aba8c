"""Tensors from files: lipcert's checkpoints, state dicts and safetensors, never pickled objects."""

import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from lipcert.checkpoints.safe_tensors import SAFETENSORS, read_safetensors
from lipcert.exporting import MANIFEST, WEIGHTS, read_export
from lipcert.system.errors import first_line
from lipcert.system.files import refuse_damaged

WRAPPERS = ("module.", "_orig_mod.")
"""What `DataParallel` and `torch.compile` put before every name."""

ONNX = ".onnx"
"""How the names of files end that hold a whole network, and no tensors by name."""

ZOO = Path(__file__).parents[1] / "zoo" / "networks"
ENTRY = (f"weights{SAFETENSORS}", f"weights{ONNX}")
"""Where the networks lie that come with lipcert, in a folder of its name each, and what their weights are called."""


@dataclass(frozen=True)
class Origin:
    """What a checkpoint says of the network it holds: what built it, for which images.

    Attributes:
        image_shape: (channels, height, width).
        num_classes: number of logits.
        builder: its name, see `lipcert.checkpoints.builders`; None for a network that was made in Python.
        arguments: of the builder, by name.
    """

    image_shape: tuple[int, ...]
    num_classes: int
    builder: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """A file's tensors by name, and what it says of itself and of its data (nothing unless lipcert wrote it).

    `data`: arguments of `load_images`; `network`: what is without its weights, of a file that was exported.
    """

    path: Path
    state_dict: dict[str, Tensor]
    description: dict[str, Any]
    origin: Origin | None = None
    data: dict[str, Any] = field(default_factory=dict)
    network: nn.Module | None = None


def checkpoint_file(path: str | Path) -> Path:
    """Return the file of a checkpoint: `path` itself; in the folder of a run, the one that was evaluated.

    In the folder of an exported network, or of a network of the zoo, it is that of its weights; the name of a network
    that comes with lipcert stands for its folder.

    Raises:
        FileNotFoundError: where there is none.
    """
    path = Path(path).expanduser()
    if not path.exists() and path.name == str(path) and (ZOO / path).is_dir():
        path = ZOO / path
    if not path.is_dir():
        found = path
    elif entry := [path / name for name in ENTRY if (path / name).is_file()]:
        found = entry[0]
    elif (path / MANIFEST).is_file():
        found = path / WEIGHTS
    else:
        try:
            settings = yaml.safe_load((path / ".hydra" / "config.yaml").read_text(encoding="utf-8"))
            best = settings["evaluation"]["checkpoint"] == "best"
        except (OSError, yaml.YAMLError, KeyError, TypeError):  # of a run that was trained from Python
            best = False
        found = path / "checkpoints" / ("best.ckpt" if best else "last.ckpt")
    if not found.is_file():
        raise FileNotFoundError(f"checkpoint={path}: no such file{', nor a run' * path.is_dir()}.")
    return found


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint of lipcert, a state dict, or a dict that holds one under `state_dict`; none of an ONNX file.

    Args:
        path: of the file, the folder of a run or of an exported network, or the name of one of lipcert's own, see
            `checkpoint_file`.

    Raises:
        FileNotFoundError: for a file that is not there.
        ValueError: for one that is damaged, holds pickled objects or no state dict, or would unpack to more than it is.
    """
    path = checkpoint_file(path)
    if path.suffix == ONNX:
        return Checkpoint(path, {}, {})
    if path.suffix == SAFETENSORS:
        weights, header = read_safetensors(path)
        told = {key: header[key] for key in ("description", "data") if isinstance(header.get(key), dict)}
        return Checkpoint(path, weights, **{"description": {}, **told}, origin=_origin(path, header.get("network")))
    there = path.name == WEIGHTS and (path.parent / MANIFEST).is_file()
    exported = read_export(path.parent) if there else None
    content = _load(path)
    outer = content if isinstance(content, dict) else {}
    description, tensors = outer.get("lipcert"), outer.get("state_dict", content)
    if isinstance(tensors, list) and len(tensors) == 1:
        tensors = tensors[0]
    values = tensors.values() if isinstance(tensors, Mapping) else ()
    if not values or not all(isinstance(each, Tensor) for each in values):
        raise ValueError(f"checkpoint={path} holds no state dict (tensors by name); save model.state_dict() into it.")
    if isinstance(description, dict):  # of lipcert's Lightning module, the network is one part
        tensors = {name.removeprefix("model."): each for name, each in tensors.items() if name.startswith("model.")}
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(
                f"checkpoint={path} says {name!r} is of shape {tuple(tensor.shape)} but does not hold all its numbers; "
                "save dense tensors."
            )
    if exported is not None:
        origin = Origin(exported.image_shape, exported.num_classes)
        return Checkpoint(path, dict(tensors), exported.description, origin, network=exported.network)
    if not isinstance(description, dict):
        return Checkpoint(path, _unwrapped(tensors), {})
    said = outer.get("ImageDataModule")
    data = said.get("source") if isinstance(said, dict) else None
    known = data if isinstance(data, dict) else {}
    return Checkpoint(path, _unwrapped(tensors), description, _origin(path, outer.get("network")), known)


def _origin(path: Path, said: Any) -> Origin | None:
    """Return what a checkpoint says of its network; None for those of earlier versions, which say nothing."""
    if said is None:
        return None
    try:
        origin = Origin(**{**said, "image_shape": tuple(map(int, said["image_shape"]))})
        if min(*origin.image_shape, origin.num_classes) < 1 or not isinstance(origin.arguments, dict):
            raise ValueError
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"checkpoint={path} says nothing sensible of its network, under `network`.") from error
    return origin


def _load(path: Path) -> Any:
    try:
        refuse_damaged(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols, on files that are none of torch
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported global" in str(error) or "Unsupported class" in str(error):
            raise ValueError(
                f"checkpoint={path} holds pickled Python objects, which could run any code; "
                "load it where you trust it and save model.state_dict() instead."
            ) from error
        raise ValueError(f"checkpoint={path} is damaged or no checkpoint of torch.") from error
    except (PermissionError, MemoryError):
        raise
    except Exception as error:  # unpickling damaged bytes ends in any of them
        raise ValueError(f"checkpoint={path} is damaged or no checkpoint of torch ({first_line(error)}).") from error


def _unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors without the wrappers' prefixes, where all of them carry one."""
    names = {str(name): tensor for name, tensor in tensors.items()}
    for prefix in WRAPPERS * 2:
        if all(name.startswith(prefix) for name in names):
            names = {name.removeprefix(prefix): tensor for name, tensor in names.items()}
    return names
