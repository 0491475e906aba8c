"""Fingerprints: which network and which images a record is about."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # reports read records without torch
    from torch import Tensor, nn


class _Hash(Protocol):
    def update(self, data: Any, /) -> None: ...


def _add(digest: _Hash, name: str, tensor: Tensor) -> None:
    """Add a tensor: a line of JSON with its name, dtype and shape, then its bytes in row-major order."""
    import torch

    digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode() + b"\n")
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    digest.update(flat.view(torch.uint8).numpy().data)


def model_sha256(model: nn.Module) -> str:
    """Return the SHA-256 of a network's architecture (its `repr`) and of every tensor of its `state_dict`, by name.

    Raises:
        ValueError: for a `state_dict` entry that is no tensor.
    """
    from torch import Tensor

    digest = hashlib.sha256(json.dumps(repr(model)).encode() + b"\n")
    for name, tensor in sorted(model.state_dict().items()):
        if not isinstance(tensor, Tensor):
            raise ValueError(f"Expected tensors in the network's state_dict, got {type(tensor).__name__} in {name!r}.")
        _add(digest, name, tensor)
    return digest.hexdigest()


def data_sha256(images: Tensor, labels: Tensor) -> str:
    """Return the SHA-256 of images (N, C, H, W) and labels (N,): shapes, dtypes and bytes.

    Records hash what is certified: float32 pixels in [0, 1] and int64 labels, as `Split[:]` returns them.
    """
    digest = hashlib.sha256()
    _add(digest, "images", images)
    _add(digest, "labels", labels)
    return digest.hexdigest()
