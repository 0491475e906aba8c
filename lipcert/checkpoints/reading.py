"""Tensors from files: lipcert's checkpoints and state dicts, never pickled objects."""

import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lipcert.system.errors import first_line
from lipcert.system.files import refuse_damaged

WRAPPERS = ("module.", "_orig_mod.")
"""What `DataParallel` and `torch.compile` put before every name."""

ONNX = ".onnx"
"""How the names of files end that hold a whole network, and no tensors by name."""


@dataclass(frozen=True)
class Checkpoint:
    """A file's tensors by name, and what it says of itself (empty unless lipcert wrote it)."""

    path: Path
    state_dict: dict[str, Tensor]
    description: dict[str, Any]


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint of lipcert, a state dict, or a dict that holds one under `state_dict`; none of an ONNX file.

    Raises:
        FileNotFoundError: for a file that is not there.
        ValueError: for one that is damaged, holds pickled objects or no state dict, or would unpack to more than it is.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint={path}: no such file.")
    if path.suffix == ONNX:
        return Checkpoint(path, {}, {})
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
    return Checkpoint(path, _unwrapped(tensors), description if isinstance(description, dict) else {})


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
