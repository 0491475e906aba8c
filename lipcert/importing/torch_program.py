"""Networks with a `forward` of their own, as layers: what `torch.export` writes down of it, node by node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from lipcert.importing.aten import DROPOUTS, EXACT, RULES
from lipcert.importing.aten_call import Call
from lipcert.importing.comparison import refuse_difference
from lipcert.importing.drawing import Drawing, Shape, Value, unsupported
from lipcert.importing.exporting import exported, unchanged
from lipcert.importing.overwriting import refuse_overwriting, written
from lipcert.importing.pairs import Extreme
from lipcert.nn import LayerGraph, UnsupportedLayerError
from lipcert.nn.integrity import has_own_forward, is_layer, refuse_altered, refuse_parametrized, refuse_unreadable
from lipcert.system.execution import refuse_interception

OF_EXTREMES = ("cat", "stack", "unsqueeze", "getitem")
"""Operations that take what is a layer with the other extreme of pairs alone."""

BATCH = 3
"""Images in the batch that the forward is followed with."""

MODAL = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)
"""Layers of torch that compute something else in train mode."""

CallStack = tuple[str, ...]
"""Calls of modules that an operation is made in, outermost first."""


def from_torch(model: nn.Module, image_shape: tuple[int, ...], images: Tensor | None = None) -> LayerGraph:
    """Return a network with a `forward` of its own as a graph of layers, which share its weights.

    Args:
        model: in eval mode; its forward takes images (B, *image_shape) and returns logits.
        image_shape: of one image, without the batch.
        images: (N, *image_shape), on which the graph and the network are compared, besides random ones.

    Raises:
        UnsupportedLayerError: naming the node, or the layer, that is no layer with known bounds: one that draws random
            numbers, depends on the batch or on what an image shows, changes what the network holds, ...
        ValueError: for weights in half precision, or a graph that yields other logits than the network.
    """
    return _followed(model, tuple(image_shape), images, exact=False)


def imported(model: nn.Module, image_shape: tuple[int, ...], images: Tensor | None = None) -> nn.Module:
    """Return the network itself where it is a tree of layers, else as of `from_torch`.

    What is proved of the graph holds of the network itself: it executes the same operations on the same weights.

    Raises:
        UnsupportedLayerError, ValueError: as in `from_torch`; also where weights are computed at each use.
    """
    return _followed(model, tuple(image_shape), images, exact=True) if has_own_forward(model) else model


@torch.no_grad()
def _followed(model: nn.Module, image_shape: Shape, images: Tensor | None, exact: bool) -> LayerGraph:
    refuse_interception()
    refuse_altered(model.named_modules(), ())
    refuse_parametrized(model)
    refuse_unreadable(model)
    for name, module in model.named_modules():
        if module.training and (isinstance(module, MODAL) or not is_layer(type(module))):
            raise UnsupportedLayerError(
                f"Layer {name or 'model'!r} ({type(module).__name__}) is in train mode; call model.eval() first."
            )
    like = _precision(model)
    with unchanged(model):
        program = exported(model, like.new_zeros(BATCH, *image_shape))
    graph = _Walk(model, program, Drawing(image_shape, like), exact).graph()
    with unchanged(model):
        refuse_difference(model, graph, image_shape, like, images)
    return graph


def _precision(model: nn.Module) -> Tensor:
    """Return an empty tensor of the network's precision, on its device.

    Raises:
        ValueError: for half precision, naming the tensor.
    """
    tensors = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in tensors:
        if tensor.is_floating_point() and tensor.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"`{name}` is in half precision or less ({tensor.dtype}), which certificates do not cover."
            )
    return next((tensor.new_empty(0) for _, tensor in tensors if tensor.is_floating_point()), torch.empty(0))


@dataclass
class _Walk:
    """Turns nodes into layers.

    Attributes:
        model: whose layers are taken as a whole where their types are known.
        program: as exported.
        drawing: that layers are appended to.
        exact: refuse what is computed from weights at each use, with roundings.
    """

    model: nn.Module
    program: torch.export.ExportedProgram
    drawing: Drawing
    exact: bool

    def graph(self) -> LayerGraph:
        """Return the whole program as a graph of layers."""
        self.values: dict[fx.Node, Any] = {}
        nodes, groups = list(self.program.graph.nodes), dict[CallStack, list[fx.Node]]()
        refuse_overwriting(nodes)
        for node in nodes:
            if self._layer_of(node) is not None:
                groups.setdefault(_stack(node), []).append(node)
        for node in nodes:
            if node.op == "placeholder":
                self.values[node] = self._held(node)
            elif node.op == "output":
                return self.drawing.finished(self._output(node))
            elif node not in self.values:
                layer = self._layer_of(node)
                done = [node] if layer is None else groups[_stack(node)]
                value = self._operation(node) if layer is None else self._whole(*layer, done)
                self.values.update(dict.fromkeys(done, value))
                for target in [target for each in done for target in written(each)]:
                    self.values[target] = value  # read in its place
        raise AssertionError("torch.export yields an output")

    def _held(self, node: fx.Node) -> Any:
        signature, name = self.program.graph_signature, str(node.name)
        if name in signature.inputs_to_parameters:
            return self.model.get_parameter(signature.inputs_to_parameters[name])
        if name in signature.inputs_to_buffers:
            return self.model.get_buffer(signature.inputs_to_buffers[name])
        if name in signature.inputs_to_lifted_tensor_constants:
            return self.program.constants[signature.inputs_to_lifted_tensor_constants[name]]
        return self.drawing.image

    def _layer_of(self, node: fx.Node) -> tuple[str, nn.Module] | None:
        """Return the innermost layer that a node belongs to, with its name, where it is taken as a whole."""
        stack = node.meta.get("nn_module_stack")
        if node.op != "call_function" or not stack:
            return None
        path = list(stack.values())[-1][0]
        module = self.model.get_submodule(path)
        return (path, module) if is_layer(type(module)) and not any(module.children()) else None

    def _whole(self, path: str, layer: nn.Module, nodes: list[fx.Node]) -> Value:
        """Append a layer for all nodes of one call of it and return what it yields."""
        outside = {each for node in nodes for each in node.all_input_nodes} - set(nodes)
        outputs = [node for node in nodes if any(user not in nodes for user in node.users)]
        own = {id(tensor) for tensor in (*layer.parameters(), *layer.buffers())}
        sources = {self.values[each] for each in outside if not isinstance(self.values[each], Tensor)}
        held = all(id(self.values[each]) in own for each in outside if isinstance(self.values[each], Tensor))
        if len(sources) != 1 or len(outputs) != 1 or not held or not isinstance(next(iter(sources)), Value):
            raise unsupported(path, type(layer).__name__, "it is not applied to one value, with its own weights alone.")
        value = self.drawing.apply(path, layer, sources.pop(), kept=True)
        self._check_shape(outputs[0], value)
        return value

    def _operation(self, node: fx.Node) -> Any:
        """Return what an operation yields: a value, a constant, or several."""
        if not node.users and not any(written(node)):
            return None  # nobody reads it
        place = ".".join([*[each for each in [_path(node)] if each], str(node.name)])
        if node.op != "call_function":
            raise unsupported(place, node.op, "it is no operation of torch.")
        arguments, kinds = self._read(node.args), self._read(node.kwargs)
        if not isinstance(node.target, torch._ops.OpOverload):
            return node.target(*arguments, **kinds)  # type: ignore[operator]  # parts of what another yields
        name = node.target.overloadpacket.__name__
        if torch.Tag.nondeterministic_seeded in node.target.tags and name not in DROPOUTS:
            raise unsupported(place, name, "it draws random numbers; nothing is proved of it.")
        if not any(isinstance(self.values[each], Value | Extreme | tuple) for each in node.all_input_nodes):
            if self.exact and node.all_input_nodes and name not in EXACT:
                raise unsupported(
                    place, name, "it computes weights at each use, with roundings that no bound covers; certify and "
                    "use lipcert.from_torch(model, image_shape), which stores them.",
                )  # fmt: skip
            return node.target(*arguments, **kinds)
        rule = RULES.get(name.removesuffix("_"))
        alone = name not in OF_EXTREMES and any(isinstance(self.values[each], Extreme) for each in node.all_input_nodes)
        if rule is None or alone:
            raise unsupported(place, name, "this operation of torch is no layer with known bounds.")
        schema = node.target._schema.arguments
        given = {each.name: each.default_value for each in schema}
        given |= dict(zip((each.name for each in schema), arguments, strict=False)) | kinds
        found = node.meta["val"]
        first = found[0] if isinstance(found, tuple | list) else found
        if not first.shape or first.shape[0] != BATCH:
            raise unsupported(place, name, f"it makes {tuple(first.shape)} of {BATCH} images, which mixes them.")
        result = rule(Call(self.drawing, place, tuple(first.shape[1:]), given))
        self._check_shape(node, result[0] if isinstance(result, tuple) else result)
        return result

    def _read(self, given: Any) -> Any:
        return fx.node.map_arg(given, lambda node: self.values[node])

    def _check_shape(self, node: fx.Node, value: Value) -> None:
        found = node.meta["val"]
        expected = tuple((found[0] if isinstance(found, tuple | list) else found).shape)
        if expected != (BATCH, *value.shape):
            raise unsupported(str(node.name), "layer", f"it yields {(BATCH, *value.shape)} in place of {expected}.")

    def _output(self, node: fx.Node) -> Value:
        (found,) = node.args
        outputs = [self.values.get(each) for each in found] if isinstance(found, tuple | list) else []  # type: ignore[arg-type]
        if len(outputs) != 1 or not isinstance(outputs[0], Value):
            raise unsupported("output", type(self.model).__name__, "the forward must return the logits alone.")
        return outputs[0]


def _stack(node: fx.Node) -> CallStack:
    return tuple(node.meta["nn_module_stack"])


def _path(node: fx.Node) -> str:
    stack: Mapping[str, tuple[str, Any]] = node.meta.get("nn_module_stack") or {}
    return list(stack.values())[-1][0] if stack else ""
