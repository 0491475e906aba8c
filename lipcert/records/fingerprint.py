"""Fingerprints: which network and which images a record is about.

The fingerprint of a network covers its `repr`, every tensor, and whatever else of a layer's state decides what it
computes: attributes that its `repr` does not tell, buffers that no state dict has, what its class derives from.
"""

import hashlib
import json
from collections.abc import Iterator
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

CONVOLUTION = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")

TOLD: dict[str, set[str]] = {
    "AdaptiveAvgPool2d": {"output_size"},
    "AvgPool2d": {"kernel_size", "stride", "padding"},
    "BatchNorm1d": {"num_features", "eps", "momentum", "affine", "track_running_stats"},
    "BatchNorm2d": {"num_features", "eps", "momentum", "affine", "track_running_stats"},
    "ChannelPad": {"before", "after"},
    "CircularPad2d": {"padding"},
    "Conv2d": {*CONVOLUTION},
    "ConvTranspose2d": {*CONVOLUTION, "output_padding"},
    "Dropout": {"p", "inplace"},
    "Dropout1d": {"p", "inplace"},
    "Dropout2d": {"p", "inplace"},
    "Flatten": {"start_dim", "end_dim"},
    "LayerGraph": {"sources"},
    "Linear": {"in_features", "out_features"},
    "Permute": {"order"},
    "GELU": {"approximate"},
    "Hardtanh": {"min_val", "max_val", "inplace"},
    "LeakyReLU": {"negative_slope", "inplace"},
    "MaxPool2d": {"kernel_size", "stride", "padding", "dilation", "ceil_mode"},
    "PReLU": {"num_parameters"},
    "PixelShuffle": {"upscale_factor"},
    "PixelUnshuffle": {"downscale_factor"},
    "ReLU": {"inplace"},
    "ReLU6": {"inplace"},
    "ReflectionPad2d": {"padding"},
    "ReplicationPad2d": {"padding"},
    "Unflatten": {"dim", "unflattened_size"},
    "SiLU": {"inplace"},
    "Sigmoid": set(),
    "Softplus": {"beta", "threshold"},
    "Tanh": set(),
    "ZeroPad2d": {"padding"},
}
"""Attributes that the `repr` of each layer tells."""

IDLE: dict[str, set[str]] = {
    "Conv2d": {"transposed", "output_padding", "_reversed_padding_repeated_twice"},
    "PReLU": {"init"},
    "ConvTranspose2d": {"transposed", "_reversed_padding_repeated_twice"},
}
"""Attributes that change nothing where all others are as told."""

USUAL: dict[str, dict[str, Any]] = {
    "AvgPool2d": {"ceil_mode": False, "count_include_pad": True, "divisor_override": None},
    "MaxPool2d": {"return_indices": False},
    "ReLU6": {"min_val": 0.0, "max_val": 6.0},
    "ZeroPad2d": {"value": 0.0},
}
"""Values of attributes that no `repr` tells and that go without saying."""

NAMES = {
    *("Abs", "ClippedMaxMin", "ClippedReLU", "ElementwiseAffine", "GroupSort2", "HalvesToPairs", "Identity", "MaxMin"),
    *("Householder", "Normalize", "PairsToHalves", "Residual", "Sequential", "Sum", *TOLD),
}
"""What layers with bounds are called."""


def _add(digest: "hashlib._Hash", name: str, tensor: Tensor) -> None:
    """Add a tensor: a line of JSON with its name, dtype and shape, then its bytes in row-major order."""
    digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode() + b"\n")
    flat = tensor.detach().cpu().reshape(-1)
    flat = flat if flat.stride(0) == 1 else flat.clone(memory_format=torch.contiguous_format)  # one number
    digest.update(flat.view(torch.uint8).numpy().data)


def model_sha256(model: nn.Module, complete: bool = True) -> str:
    """Return the SHA-256 of a network in eval mode: of its `repr`, of every tensor by name, and of `unsaid` state.

    Args:
        model: networks of one fingerprint compute the same function, if their layers are what their types say.
        complete: False for the `repr` and the `state_dict` alone, which was all that older records cover.

    Raises:
        ValueError: for a `state_dict` entry that is no tensor, or an attribute that cannot be told in words.
    """
    digest = hashlib.sha256(json.dumps(repr(model)).encode() + b"\n")
    tensors = dict(model.state_dict())
    if complete:  # buffers that are not persistent, and all others as they are, whatever hooks make of a state_dict
        tensors |= dict(model.named_parameters(remove_duplicate=False))
        tensors |= dict(model.named_buffers(remove_duplicate=False))
    for name, tensor in sorted(tensors.items()):
        if not isinstance(tensor, Tensor):
            raise ValueError(f"Expected tensors in the network's state_dict, got {type(tensor).__name__} in {name!r}.")
        _add(digest, name, tensor)
    for line in unsaid(model) if complete else ():
        digest.update(json.dumps(line, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def unsaid(model: nn.Module) -> list[list[Any]]:
    """Return what neither `repr` nor tensors tell of a network: names and values of a layer each, as JSON values.

    Raises:
        ValueError: for an attribute that cannot be told in words.
    """
    layers = list(model.named_modules(remove_duplicate=False))
    lines: list[list[Any]] = [[name, state] for name, layer in layers if (state := dict(_unsaid(layer, name)))]
    names = [name for name, _ in layers]
    return [*lines, ["names", names]] if any(set(name) & set("()\n") for name in names) else lines


def _unsaid(layer: nn.Module, name: str) -> Iterator[tuple[str, Any]]:
    kind = type(layer)
    bases = [cls for cls in kind.__mro__ if cls.__module__.startswith(("torch.nn.", "lipcert.nn."))]
    owner = bases[0].__name__ if bases[0] is not nn.Module else ""
    owner = bases[1].__name__ if owner.startswith("Parametrized") else owner
    if kind is not bases[0] and (owner or kind.__name__ in NAMES):
        yield "class", [f"{cls.__module__}.{cls.__qualname__}" for cls in bases]
    skipped = vars(nn.Module()).keys() | TOLD.get(owner, set()) | IDLE.get(owner, set())
    for key in sorted(vars(layer).keys() - skipped):
        value, usual = vars(layer)[key], USUAL.get(owner, {})
        if not (key in usual and type(value) is type(usual[key]) and value == usual[key]):
            yield key, _words(value, f"{name}.{key}")


def _words(value: Any, place: str) -> Any:
    """Return a value as JSON can hold it.

    Raises:
        ValueError: for a value of a type whose text does not tell all of it.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_words(each, place) for each in value]
    if isinstance(value, torch.Tensor):
        digest = hashlib.sha256()
        _add(digest, place, value)
        return digest.hexdigest()
    if isinstance(value, torch.dtype | torch.device | Enum):
        return str(value)
    if hasattr(value, "__module__") and hasattr(value, "__qualname__"):  # a class or a function
        return f"{value.__module__}.{value.__qualname__}"
    raise ValueError(
        f"Expected numbers, texts, tensors or functions as attributes of layers, got {type(value).__name__} in "
        f"{place!r}, which no fingerprint covers; keep it in a buffer, or out of the layer."
    )


def data_sha256(images: Tensor, labels: Tensor) -> str:
    """Return the SHA-256 of images (N, C, H, W) and labels (N,): shapes, dtypes and bytes.

    Records hash what is certified: float32 pixels in [0, 1] and int64 labels, as `Split[:]` returns them.
    """
    digest = hashlib.sha256()
    _add(digest, "images", images)
    _add(digest, "labels", labels)
    return digest.hexdigest()
