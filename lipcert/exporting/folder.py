"""The folder of an exported network: its files, what they are called, and that they are those that were written."""

import hashlib
import importlib.util
import json
import types
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lipcert.exporting.source import read, written
from lipcert.system.files import read_bytes, write_json, write_text
from lipcert.version import __version__

FORMAT = 1
MANIFEST, WEIGHTS, SOURCE, PROGRAM, ONNX = "export.json", "weights.pt", "model.py", "model.pt2", "model.onnx"

IMAGES = 16
"""Random images on which every form of the network must yield the same logits."""


@dataclass(frozen=True)
class Exported:
    """What a folder holds.

    Attributes:
        image_shape, num_classes: of the images, and the number of logits.
        description: what is known of the network, `exported` among it: the SHA-256 of each file by name.
        network: of lipcert's layers, without its weights.
    """

    image_shape: tuple[int, ...]
    num_classes: int
    description: dict[str, Any]
    network: nn.Module


def onnx_is_there() -> bool:
    """Return whether what writes ONNX files is installed."""
    return all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript"))


@torch.no_grad()
def write_export(
    folder: Path, model: nn.Module, image_shape: tuple[int, ...], description: Mapping[str, Any], onnx: bool = True
) -> Exported:
    """Write a network into an empty folder: weights, a file of plain torch, `torch.export`, ONNX, and what they are.

    Args:
        folder: there, and empty.
        model: of layers of torch and lipcert, in eval mode on the CPU, nothing parametrized.
        image_shape: of one image.
        description: what is known of the network, as JSON values.
        onnx: whether to write `model.onnx`, too.

    Raises:
        UnsupportedLayerError: naming a layer that plain torch does not have.
        ArithmeticError: where a form of the network yields other logits than the network.
        OSError: if the folder cannot be written.
    """
    dtype = next((each.dtype for each in model.state_dict().values() if each.is_floating_point()), torch.float32)
    images = torch.rand(IMAGES, *image_shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    logits = model(images)
    text = written(model, image_shape, logits.shape[1])
    write_text(folder / SOURCE, text)
    torch.save({name: each.detach().clone() for name, each in model.state_dict().items()}, folder / WEIGHTS)
    module = types.ModuleType("exported")
    exec(compile(text, SOURCE, "exec"), vars(module))  # what was written a line ago
    network: nn.Module = module.load(str(folder / WEIGHTS))
    _refuse_difference(SOURCE, network(images), logits)
    batch = {0: torch.export.Dim("batch")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(network, (images,), dynamic_shapes=(batch,))
        torch.export.save(program, folder / PROGRAM)
        _refuse_difference(PROGRAM, torch.export.load(folder / PROGRAM).module()(images), logits)
        if onnx:
            torch.onnx.export(
                network,
                (images,),
                folder / ONNX,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=(batch,),
                dynamo=True,
                optimize=False,  # it would fold batch norm into other weights
                external_data=False,
                verbose=False,
            )
    files = {name: _sha256(folder / name) for name in (WEIGHTS, SOURCE, PROGRAM, *[ONNX] * onnx)}
    content = {"format": FORMAT, "lipcert_version": __version__, "image_shape": list(image_shape)}
    content |= {"num_classes": logits.shape[1], "description": dict(description), "files": files}
    write_json(folder / MANIFEST, content)
    return read_export(folder)


def _refuse_difference(name: str, found: Tensor, logits: Tensor) -> None:
    if not torch.equal(found, logits):
        largest = float((found - logits).abs().max())
        raise ArithmeticError(f"{name} yields other logits than the network (by {largest:.3g}); nothing was exported.")


def read_export(folder: Path) -> Exported:
    """Return what a folder says of an exported network; every file must be the one that was written.

    Raises:
        ValueError: naming the file that was changed or is damaged.
        FileNotFoundError: for a file that is missing.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(read_bytes(path))
        if content["format"] != FORMAT:
            raise ValueError(f"expected format {FORMAT}, got {content['format']!r}")
        shape, classes = tuple(map(int, content["image_shape"])), int(content["num_classes"])
        files, description = dict(content["files"]), dict(content["description"])
        if not {WEIGHTS, SOURCE} <= files.keys() or any(Path(name).name != name for name in files):
            raise ValueError(f"`files` are {', '.join(files)}")
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is no list of exported files ({type(error).__name__}: {error}).") from error
    for name, said in files.items():
        found = _sha256(folder / name)
        if found != said:
            raise ValueError(f"{folder / name} was changed: its SHA-256 is {found}, {MANIFEST} says {said}.")
    text = (folder / SOURCE).read_text(encoding="utf-8")
    try:
        network = read(text)
        if text != written(network, shape, classes):
            raise ValueError("it holds more, or less, than lipcert writes")
    except ValueError as error:
        raise ValueError(f"{folder / SOURCE} is refused: {error}.") from error
    return Exported(shape, classes, {**description, "exported": files}, network)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
