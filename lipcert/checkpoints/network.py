"""Networks from checkpoints: architectures of lipcert, found by names and shapes, or any `nn.Module` a user builds."""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lipcert.checkpoints.builders import Builder, built
from lipcert.checkpoints.reading import ONNX, Checkpoint, read_checkpoint
from lipcert.importing import from_onnx, imported
from lipcert.nn import ACTIVATIONS, ARCHITECTURES, build, folded
from lipcert.nn.integrity import has_own_forward
from lipcert.system.configuration import BUILT_IN, OURS
from lipcert.system.errors import first_line

FROM_ONNX = "from an ONNX file; as executed by torch: other runtimes round otherwise, the exact network is theirs too"
FROM_FORWARD = "from a forward of its own, whose operations it executes on the same weights"
"""What descriptions say of a graph that was imported."""

IMAGES = ((1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64))
"""Shapes of the images that checkpoints without an `Origin` are for."""


@dataclass(frozen=True)
class LoadedNetwork:
    """A network in eval mode, and what is known of it: model, activation, data, epsilon, ... builder, imported."""

    model: nn.Module
    description: dict[str, Any]


def load_network(
    source: Checkpoint | str | Path,
    image_shape: Sequence[int],
    num_classes: int,
    model: str | None = None,
    activation: str | None = None,
    builder: Builder | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> LoadedNetwork:
    """Load the network of a checkpoint, in the dtypes of its tensors; parametrized ones are `folded`.

    One with a `forward` of its own, and that of an ONNX file, is imported as a graph of layers.

    Args:
        source: a checkpoint, or the file of one, see `read_checkpoint`.
        image_shape: (channels, height, width) of the images it is for.
        num_classes: of the data, the number of logits.
        model: a key of `ARCHITECTURES`; what the file says when None, else found by names and shapes.
        activation: one of `ACTIVATIONS`, likewise.
        builder: what returns the network, in place of both. A file's own builder is not called unless it is lipcert's
            or named here: it is somebody's code.
        arguments: of the builder; what the file says of them when None or empty, see `Origin`.

    Raises:
        FileNotFoundError: for a file that is not there.
        UnsupportedLayerError: for a parametrization that `folded` refuses, or a node that is no layer with bounds.
        ValueError: saying what does not fit and what to type.
    """
    checkpoint = source if isinstance(source, Checkpoint) else read_checkpoint(source)
    shape = tuple(image_shape)
    if builder is None and _own_builder(checkpoint) in OURS:
        builder, model, activation = _own_builder(checkpoint), None, None
    if checkpoint.path.suffix == ONNX:
        if any(name is not None for name in (model, activation, builder)):
            raise ValueError(f"{checkpoint.path} is a whole network; leave model=, activation= and builder= out.")
        graph = from_onnx(checkpoint.path)
        _check_logits(checkpoint, graph, shape, num_classes)
        return LoadedNetwork(graph, {"imported": FROM_ONNX})
    if checkpoint.network is not None:
        if any(name is not None for name in (model, activation, builder)):
            raise ValueError(f"{checkpoint.path} was exported with what builds it; leave model= and builder= out.")
        network, known = checkpoint.network, {}
    elif builder is not None:
        if model is not None or activation is not None:
            raise ValueError("Expected builder= alone or model= and activation=, got both; leave one out.")
        network = built(builder, arguments or _arguments(checkpoint), shape, num_classes)
        known = {"builder": builder if isinstance(builder, str) else f"{builder.__module__}:{builder.__qualname__}"}
    elif model is None and activation is None and _own_builder(checkpoint) is not None:
        own = _own_builder(checkpoint)
        raise ValueError(
            f"checkpoint={checkpoint.path} is of a network that {own} builds, which is code that may do anything. If "
            f"you trust it, name it: builder={own}, in Python lipcert.load(PATH, {own!r})."
        )
    else:
        said = _said(checkpoint)
        known = _architecture(
            checkpoint, shape, num_classes, model or said.get("model"), activation or said.get("activation")
        )
        network = _on_meta(checkpoint, shape, num_classes, **known)
    difference = _difference(checkpoint, network)
    if difference is not None:
        hint = "give the data=, model= and activation= (or builder=) it was trained with"
        raise ValueError(f"checkpoint={checkpoint.path} {difference}; {hint}.")
    network.load_state_dict(checkpoint.state_dict, strict=True, assign=True)
    network = folded(network.eval())
    if has_own_forward(network):
        network, known = imported(network, shape), {**known, "imported": FROM_FORWARD}
    _check_logits(checkpoint, network, shape, num_classes)
    return LoadedNetwork(network, {**checkpoint.description, **known})


def load(path: str | Path, builder: Builder | None = None) -> nn.Module:
    """Return the network of a checkpoint, ready to execute: in eval mode, on the CPU, for pixels in [0, 1].

    Args:
        path: a checkpoint of lipcert, the folder of a run or of an exported network, an ONNX file, a state dict as
            safetensors, or the name of a network that comes with lipcert, see `python -m lipcert.zoo`.
        builder: of a network that is none of lipcert's: "package.module:function", or the function itself. It is code
            that runs, so a checkpoint's own is not called unless it is named here.

    Raises:
        FileNotFoundError: for a file that is not there.
        ValueError: for one that is damaged, says nothing of its network, or does not fit it.
        UnsupportedLayerError: for a network that has no bounds.
    """
    checkpoint = read_checkpoint(path)
    if checkpoint.path.suffix == ONNX and builder is None:
        return from_onnx(checkpoint.path)
    shape, num_classes = _images(checkpoint)
    return load_network(checkpoint, shape, num_classes, builder=builder).model


def _images(checkpoint: Checkpoint) -> tuple[tuple[int, ...], int]:
    """Return the shape of the images and the number of classes that a file says; of an older one, what fits it."""
    if checkpoint.origin is not None:
        return checkpoint.origin.image_shape, checkpoint.origin.num_classes
    tensors = list(checkpoint.state_dict.values())
    classes = next((len(each) for each in reversed(tensors) if each.dim() > 0), 0)
    pairs = [{"model": model, "activation": activation} for model in ARCHITECTURES for activation in ACTIVATIONS]
    for shape in IMAGES:
        if classes > 1 and any(_fits(checkpoint, shape, classes, each) for each in pairs):
            return shape, classes
    raise ValueError(
        f"checkpoint={checkpoint.path} does not say for which images its network is; load it by "
        "lipcert.checkpoints.load_network(PATH, image_shape, num_classes, builder=BUILDER)."
    )


def _said(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what a file says of a published architecture: model, activation, parametrization, width."""
    if checkpoint.origin is None or checkpoint.origin.builder != BUILT_IN:
        return checkpoint.description
    return {**checkpoint.description, **checkpoint.origin.arguments, "model": checkpoint.origin.arguments.get("name")}


def _own_builder(checkpoint: Checkpoint) -> str | None:
    """Return the name of what built a network, where that is not lipcert."""
    named = None if checkpoint.origin is None else checkpoint.origin.builder
    return None if named == BUILT_IN else named


def _arguments(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what the file says a builder of its own was given.

    Raises:
        ValueError: where that would call something else.
    """
    if _own_builder(checkpoint) is None or checkpoint.origin is None:
        return {}
    for value in checkpoint.origin.arguments.values():
        if "_target_" in json.dumps(value):
            raise ValueError(
                f"checkpoint={checkpoint.path} says that its builder was given what {value} makes, which is code that "
                "may do anything; name a builder that takes no such argument."
            )
    return checkpoint.origin.arguments


def _on_meta(
    checkpoint: Checkpoint, shape: tuple[int, ...], num_classes: int, model: str, activation: str
) -> nn.Module:
    """Return an architecture without weights, with the parametrization and the width that the file says of itself."""
    said = _said(checkpoint)
    options = {key: said[key] for key in ("parametrization", "width") if key in said}
    with torch.device("meta"):
        return build(model, shape, num_classes, activation, **options)


def _architecture(
    checkpoint: Checkpoint, shape: tuple[int, ...], num_classes: int, model: str | None, activation: str | None
) -> dict[str, str]:
    """Return the model and activation of a file: the given ones, else the only ones that fit."""
    choices = []
    for key, value, known in (("model", model, ARCHITECTURES), ("activation", activation, ACTIVATIONS)):
        if value is not None and value not in known:
            raise ValueError(f"Expected {key}= to be one of {', '.join(known)}, got {value!r}.")
        choices.append([{key: each} for each in (known if value is None else [value])])
    candidates = [first | second for first, second in itertools.product(*choices)]
    classes = next((len(each) for each in reversed(checkpoint.state_dict.values()) if each.dim() > 0), 0)
    if classes not in (0, 1, num_classes) and any(_fits(checkpoint, shape, classes, each) for each in candidates):
        raise ValueError(_other_classes(checkpoint, classes, num_classes))
    if len(candidates) > 1:
        candidates = [each for each in candidates if _fits(checkpoint, shape, num_classes, each)]
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        named = " or ".join("model={model} activation={activation}".format(**each) for each in candidates)
        raise ValueError(f"checkpoint={checkpoint.path} fits more than one network; type {named}.")
    given = "".join(f" with {key}={value}" for key, value in (("model", model), ("activation", activation)) if value)
    raise ValueError(
        f"checkpoint={checkpoint.path} fits no network of lipcert for images of shape {shape}{given}; "
        "type data=NAME for the data it was trained on, model=NAME activation=NAME to see what differs, or "
        "builder=package.module:function for a network of your own."
    )


def _fits(checkpoint: Checkpoint, shape: tuple[int, ...], num_classes: int, names: Mapping[str, str]) -> bool:
    """Whether the tensors of a file have the names and shapes of an architecture's."""
    try:
        network = _on_meta(checkpoint, shape, num_classes, **names)
    except ValueError:  # images too small for it
        return False
    return _difference(checkpoint, network) is None


def _difference(checkpoint: Checkpoint, network: nn.Module) -> str | None:
    """Return what is wrong with the first tensor whose name or shape is not the network's; None where all fit."""
    expected, found = network.state_dict(), checkpoint.state_dict
    for name, tensor in expected.items():
        if name not in found:
            return f"has no {name!r}, which the network needs"
        if found[name].shape != tensor.shape:
            shapes = f"{tuple(found[name].shape)}, but the network needs {tuple(tensor.shape)}"
            return f"has {name!r} of shape {shapes}"
    return next((f"has {name!r}, which the network lacks" for name in found if name not in expected), None)


@torch.no_grad()
def _check_logits(checkpoint: Checkpoint, network: nn.Module, shape: tuple[int, ...], num_classes: int) -> None:
    """Raise ValueError unless the network maps images to one logit a class."""
    dtype = next((each.dtype for each in network.parameters()), torch.float32)
    try:
        logits = network(torch.zeros(1, *shape, dtype=dtype))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ValueError(
            f"The network of {checkpoint.path} does not take images of shape {shape} ({first_line(error)})."
        ) from error
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != 1:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"Expected the network of {checkpoint.path} to return logits (B, K), got {got}.")
    if logits.shape[1] != num_classes:
        raise ValueError(_other_classes(checkpoint, logits.shape[1], num_classes))


def _other_classes(checkpoint: Checkpoint, classes: int, num_classes: int) -> str:
    return (
        f"checkpoint={checkpoint.path} tells {classes} classes apart, the data has {num_classes}; "
        "type data=NAME for the data it was trained on."
    )
