"""ONNX files as they are read: whole, from their own folder alone, with one input of a fixed shape."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lipcert.importing.drawing import Shape
from lipcert.nn import UnsupportedLayerError
from lipcert.system.errors import first_line

if TYPE_CHECKING:
    import onnx

BATCH = 3
"""Images in a batch whose size a file leaves open."""


@dataclass(frozen=True)
class OnnxModel:
    """A file's model.

    Attributes:
        proto: local functions written out, data of other files read.
        input, output: their names.
        image_shape: without the batch; `batch`: images that it takes at a time, `fixed` where no others.
        dtype: of images.
    """

    proto: onnx.ModelProto
    input: str
    output: str
    image_shape: Shape
    batch: int
    fixed: bool
    dtype: torch.dtype


def require_onnx() -> None:
    """Raise ValueError, saying what to install, where the package onnx is missing."""
    try:
        import onnx  # noqa: F401
    except ModuleNotFoundError as error:
        raise ValueError("ONNX files are read by the package onnx: pip install 'lipcert[onnx]'.") from error


def read_onnx(path: str | Path) -> OnnxModel:
    """Read a file and check that it is a network of images.

    Raises:
        FileNotFoundError: for a file, or one with its data, that is not there.
        ValueError: where the package onnx is not installed; for a damaged file, data outside its folder, or another
            precision than float32 and float64.
        UnsupportedLayerError: for several inputs or outputs, or shapes that are left open.
    """
    require_onnx()
    import onnx
    from onnx.inliner import inline_local_functions

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file.")
    try:
        proto = onnx.load(str(path), load_external_data=False)
    except (PermissionError, MemoryError):
        raise
    except Exception as error:  # decoding damaged bytes ends in several of them
        raise ValueError(f"{path} is damaged or no ONNX file ({first_line(error)}).") from error
    if not proto.graph.node:
        raise ValueError(f"{path} is damaged or no ONNX file: it holds no node.")
    _refuse_outside(proto, path)
    try:
        onnx.load_external_data_for_model(proto, str(path.parent))
        proto = inline_local_functions(proto)
        onnx.checker.check_model(proto)
    except Exception as error:  # the checker's own, and those of reading data
        raise ValueError(f"{path} is no valid ONNX file ({first_line(error)}).") from error
    return _described(proto, path)


def _tensors(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor of a graph, those of graphs in it, too."""
    yield from getattr(graph, "initializer", ())
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for inner in (attribute.g, *attribute.graphs):
            yield from _tensors(inner)


def _refuse_outside(proto: onnx.ModelProto, path: Path) -> None:
    """Refuse data in files that are not below the folder of the file itself, by whatever path they are named.

    Raises:
        FileNotFoundError: for a file that is not there.
        ValueError: naming the tensor and the file.
    """
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    folder = path.parent.resolve()
    for tensor in (tensor for graph in (proto.graph, *proto.functions) for tensor in _tensors(graph)):
        if uses_external_data(tensor):
            found = (folder / ExternalDataInfo(tensor).location).resolve()
            if not found.is_relative_to(folder):
                raise ValueError(f"{path} keeps {tensor.name!r} in {found}, outside its folder; nothing is read there.")
            if not found.is_file():
                raise FileNotFoundError(f"{path} keeps {tensor.name!r} in {found}: no such file.")


def _described(proto: onnx.ModelProto, path: Path) -> OnnxModel:
    import onnx

    constants = {each.name for each in proto.graph.initializer}
    inputs = [each for each in proto.graph.input if each.name not in constants]
    outputs = [each.name for each in proto.graph.output]
    if len(inputs) != 1 or len(outputs) != 1:
        names = f"inputs {[each.name for each in inputs]} and outputs {outputs}"
        raise UnsupportedLayerError(f"{path} has {names}; a network takes images alone and yields logits alone.")
    precisions = {onnx.TensorProto.FLOAT: torch.float32, onnx.TensorProto.DOUBLE: torch.float64}
    floats = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, *precisions}
    found = inputs[0].type.tensor_type
    typed = [(inputs[0].name, found.elem_type), *((each.name, each.data_type) for each in _tensors(proto.graph))]
    for name, kind in typed:
        if kind in floats - {found.elem_type} or (name == inputs[0].name and kind not in precisions):
            said = onnx.TensorProto.DataType.Name(kind)
            raise ValueError(f"{path}: {name!r} is in {said}; certificates cover networks all in FLOAT or in DOUBLE.")
    sizes = [each.dim_value for each in found.shape.dim]
    for number, each in enumerate(found.shape.dim):
        if number and each.dim_value <= 0:
            said = each.dim_param or "?"
            raise UnsupportedLayerError(
                f"{path}: dimension {number} of input {inputs[0].name!r} is {said!r}, of any size; export it for one "
                "size of images (only the batch may be of any)."
            )
    if len(sizes) < 2:
        raise UnsupportedLayerError(f"{path}: input {inputs[0].name!r} has shape {sizes}, which is no batch of images.")
    batch, precision = sizes[0] if sizes[0] > 0 else BATCH, precisions[found.elem_type]
    return OnnxModel(proto, inputs[0].name, outputs[0], tuple(sizes[1:]), batch, sizes[0] > 0, precision)
