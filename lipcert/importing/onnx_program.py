"""ONNX files as graphs of layers: nodes become layers, what depends on no image is computed once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lipcert.importing.comparison import refuse_difference
from lipcert.importing.drawing import Drawing, Value, unsupported
from lipcert.importing.onnx_call import Call
from lipcert.importing.onnx_file import OnnxModel, read_onnx
from lipcert.importing.onnx_rules import RULES
from lipcert.importing.pairs import Extreme
from lipcert.nn import LayerGraph
from lipcert.system.errors import first_line

if TYPE_CHECKING:
    import onnx

RANDOM = ("Random", "Bernoulli", "Multinomial")
"""How the names of operators start that draw random numbers."""

Known = dict[str, "Value | Extreme | Tensor | None"]
"""What every name of the graph stands for."""


def from_onnx(path: str | Path, images: Tensor | None = None) -> LayerGraph:
    """Return the network of an ONNX file as a graph of layers.

    What is proved is of this graph as torch executes it. Another runtime rounds otherwise: it may fold layers into one
    another, or multiply in lower precision, which no bound covers; the exact network is the same.

    Args:
        path: of the file; data that it keeps in others must be in its folder.
        images: (N, ...), on which the graph is compared with ONNX's reference, besides random ones.

    Raises:
        FileNotFoundError: for a file that is not there.
        ValueError: where the package onnx is not installed (extra `onnx`); for a file that is damaged, in half
            precision, has data outside its folder, or whose graph yields other logits than ONNX's reference.
        UnsupportedLayerError: naming the node that is no layer with known bounds; for several inputs or outputs, or
            shapes that are left open.
    """
    model = read_onnx(path)
    graph = _graph(model)
    refuse_difference(_Reference(model), graph, model.image_shape, torch.empty(0, dtype=model.dtype), images)
    return graph


@torch.no_grad()
def _graph(model: OnnxModel) -> LayerGraph:
    from onnx import numpy_helper

    drawing = Drawing(model.image_shape, torch.empty(0, dtype=model.dtype))
    known: Known = {"": None, model.input: drawing.image}
    known |= {each.name: _tensor(numpy_helper.to_array(each)) for each in model.proto.graph.initializer}
    versions = {each.domain: each.version for each in model.proto.opset_import}
    for node in model.proto.graph.node:
        name = node.name or node.output[0]
        _refuse_kind(node, name)
        if any(each not in known for each in node.input):
            raise unsupported(name, node.op_type, "it reads what another node yields besides its first output.")
        inputs = [known[each] for each in node.input]
        if node.op_type == "Shape" and isinstance(inputs[0], Value):
            shape = torch.tensor((model.batch, *inputs[0].shape))
            first, last = (_attributes(node).get(key) for key in ("start", "end"))
            results: list[Any] = [shape[first:last]]
        elif not any(isinstance(each, Value | Extreme) for each in inputs):
            results = _computed(node, name, inputs, versions)
        elif node.op_type in (
            RULES if not any(isinstance(each, Extreme) for each in inputs) else ("Concat", "Unsqueeze")
        ):
            found = RULES[node.op_type](Call(drawing, name, node.op_type, inputs, _attributes(node), model.batch))
            results = list(found) if isinstance(found, tuple) else [found]
        else:
            raise unsupported(name, node.op_type, "this operator of ONNX is no layer with known bounds.")
        known |= dict(zip(node.output, results, strict=False))
    output = known[model.output]
    if not isinstance(output, Value):
        raise unsupported(model.output, "output", "it does not depend on the image.")
    return drawing.finished(output)


def _refuse_kind(node: onnx.NodeProto, name: str) -> None:
    """Refuse what is of no known operator set, branches, or draws random numbers.

    Raises:
        UnsupportedLayerError: naming the node.
    """
    if node.domain not in ("", "ai.onnx"):
        raise unsupported(name, node.op_type, f"it is of the operator set {node.domain!r}, not of ONNX's own.")
    if any(each.HasField("g") or each.graphs for each in node.attribute):
        raise unsupported(name, node.op_type, "it branches or repeats; a network must do the same for every image.")
    if node.op_type.startswith(RANDOM):
        raise unsupported(name, node.op_type, "it draws random numbers; nothing is proved of it.")


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    from onnx.helper import get_attribute_value

    return {each.name: get_attribute_value(each) for each in node.attribute}


def _computed(node: onnx.NodeProto, name: str, inputs: list[Any], versions: dict[str, int]) -> list[Tensor]:
    """Return what a node makes of constants, by ONNX's reference."""
    from onnx.reference import ReferenceEvaluator

    feeds = {key: each.numpy() for key, each in zip(node.input, inputs, strict=True) if each is not None}
    try:
        found = ReferenceEvaluator(node, opsets=versions).run(None, feeds)
        return [_tensor(np.asarray(each)) for each in found]
    except Exception as error:  # of any operator there is
        raise unsupported(name, node.op_type, f"what it makes of constants is not known ({first_line(error)}).") from (
            error
        )


def _tensor(array: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(np.array(array))


class _Reference:
    """The file's model as ONNX's reference executes it."""

    def __init__(self, model: OnnxModel) -> None:
        from onnx.reference import ReferenceEvaluator

        self.model, self.evaluator = model, ReferenceEvaluator(model.proto)

    def __call__(self, images: Tensor) -> Tensor:
        size = self.model.batch if self.model.fixed else len(images)
        missing = -len(images) % size
        padded = torch.cat([images, images[:1].expand(missing, *images.shape[1:])])
        runs: list[Any] = [self.evaluator.run(None, {self.model.input: each.numpy()}) for each in padded.split(size)]
        return torch.cat([_tensor(logits) for (logits,) in runs])[: len(images)]
