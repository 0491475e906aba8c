"""Weights as safetensors, a format that holds numbers alone; the header says what a checkpoint says of its network."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lipcert.system.errors import first_line
from lipcert.system.files import write_bytes

SAFETENSORS = ".safetensors"
KEY = "lipcert"
"""Of the header's entry: JSON with `description`, `network` and `data`."""


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a file by name, and what its header says of the network; nothing where lipcert did not.

    Raises:
        ValueError: for a file that is damaged or of another format.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            said, names = json.loads((file.metadata() or {}).get(KEY, "{}")), list(file.keys())
            return {name: file.get_tensor(name) for name in names}, dict(said)
    except (SafetensorError, ValueError, TypeError) as error:
        raise ValueError(f"checkpoint={path} is damaged or no file of safetensors ({first_line(error)}).") from error


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], said: Mapping[str, Any]) -> None:
    """Write tensors by name, and what is said of their network as JSON values; raise OSError naming the file."""
    from safetensors.torch import save

    copies = {name: each.detach().cpu().clone().contiguous() for name, each in tensors.items()}  # none share memory
    write_bytes(path, save(copies, metadata={KEY: json.dumps(said)}))
