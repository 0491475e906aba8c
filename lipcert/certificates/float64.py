"""The float64 copy of a model that bounds are computed with, and its norms."""

import copy

import torch
from torch import Tensor, nn

from lipcert.bounds import Analysis, Arithmetic, Bound, analyze
from lipcert.graph import Graph, UnsupportedLayerError, compile_graph, supported_types
from lipcert.nn.integrity import (
    refuse_altered,
    refuse_other_copy,
    refuse_parametrized,
    refuse_unreadable,
)
from lipcert.norms import UpperNorms
from lipcert.norms.lanczos import SMALLEST_NORM
from lipcert.system.execution import refuse_execution, refuse_interception

FAILURE_PROBABILITY = 1e-9
"""Probability that one norm's upper bound is wrong; certificates carry the union bound over all of them."""

SLACK = 1e-9
"""Relative room for the float64 arithmetic of radii, gains and error bounds."""

LANCZOS_STEPS = 60
"""Within about half a percent of the exact norm on masked convolutions."""


def executed_dtype(model: nn.Module) -> torch.dtype:
    """Return the coarsest floating point type among the weights and buffers of `model`, float32 where it has none."""
    tensors = (*model.parameters(), *model.buffers())
    types = {tensor.dtype for tensor in tensors if tensor.is_floating_point()} or {torch.float32}
    return max(types, key=lambda dtype: torch.finfo(dtype).eps)


def double_copy(model: nn.Module) -> nn.Module:
    """Return a float64 copy of `model`, in the same mode; the original is untouched.

    Raises:
        UnsupportedLayerError: for a layer that may compute something else than its type says, or whose weights a
            parametrization computes at each use, or are no real numbers in memory; for a copy that is another layer.
        ValueError: for half precision, non-finite or vanishing weights, naming the parameter; as in
            `refuse_interception`.
    """
    refuse_interception()
    kinds = supported_types()
    refuse_altered(model.named_modules(), kinds)
    refuse_parametrized(model)
    refuse_unreadable(model)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and tensor.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"`{name}` is in half precision or less ({tensor.dtype}), which certificates do not cover."
            )
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"`{name}` has NaN or infinite entries; nothing can be certified with it.")
        if tensor.is_floating_point() and bool(((tensor != 0) & (tensor.abs() < SMALLEST_NORM)).any()):
            raise ValueError(f"`{name}` has entries below {SMALLEST_NORM}, whose squares vanish; set them to 0.")
    twin = copy.deepcopy(model).double().requires_grad_(False)
    refuse_other_copy(model, twin, kinds)
    return twin


def refuse_unexecutable(graph: Graph) -> None:
    """Refuse activations of which no standard bounds what they are off by, as executed.

    Raises:
        UnsupportedLayerError: naming the layer.
    """
    for node in graph.activations:
        if not node.function.executable:
            raise UnsupportedLayerError(
                f"Layer {node.name!r} ({type(node.layer).__name__}) is executed by exponentials or error functions, "
                'whose rounding no standard bounds; ask for arithmetic="exact", a certificate of the exact network.'
            )


class Float64Model:
    """A float64 copy of a model and upper bounds of its norms; certifiers that share it bound global norms once.

    Args:
        model: any tree of supported layers; put into eval mode by the caller.
        norms: made for this model alone; with `FAILURE_PROBABILITY` each when None.

    Raises:
        ValueError, UnsupportedLayerError: as in `double_copy`.
    """

    def __init__(self, model: nn.Module, norms: UpperNorms | None = None) -> None:
        self.dtype = executed_dtype(model)
        self.kinds = frozenset(map(type, model.modules()))
        with torch.inference_mode(False), torch.no_grad():
            self.model = double_copy(model)
        self.norms = UpperNorms(failure_probability=FAILURE_PROBABILITY) if norms is None else norms
        self._graphs: dict[torch.Size, Graph] = {}

    def graph(self, image_shape: torch.Size) -> Graph:
        """Return the graph of the copy for images of `image_shape` (no batch), compiled once.

        Raises:
            UnsupportedLayerError: naming a layer without a sound rule.
        """
        if image_shape not in self._graphs:
            self._graphs[image_shape] = compile_graph(self.model, image_shape).frozen()
        return self._graphs[image_shape]

    def norm_brackets(self) -> dict[str, tuple[float, float]]:
        """Return (lower, upper) bounds of the global norms of the maps between activations, by the later activation."""
        brackets: dict[str, tuple[float, float]] = {}
        for graph in self._graphs.values():
            brackets |= self.norms.brackets(graph)
        return brackets

    def analyze(
        self,
        images: Tensor,
        epsilon: float | Tensor,
        bound: Bound | str,
        lanczos_steps: int = LANCZOS_STEPS,
        constant_share: float = 0.0,
        clip_input: bool = False,
        arithmetic: Arithmetic | None = None,
        executed: bool = False,
    ) -> Analysis:
        """Return what `bound` proves of images (B, ...) within `epsilon`, a number or (B,).

        Args:
            images, epsilon, bound, clip_input, arithmetic: as in `lipcert.bounds.analyze`.
            lanczos_steps: of a masked norm.
            constant_share: where a smaller share of the units is constant, the global norm serves.
            executed: what is proved is to hold as executed on the device of the images.

        Raises:
            ValueError: as in `refuse_interception` and, where `executed`, `refuse_execution`.
        """
        refuse_interception()
        if executed:
            refuse_execution(self.kinds, images.device)
            refuse_unexecutable(self.graph(images.shape[1:]))
        norms = self.norms.with_steps(lanczos_steps, constant_share)
        radius = torch.as_tensor(epsilon, dtype=torch.float64, device=images.device) * (1 + SLACK)
        graph = self.graph(images.shape[1:])
        return analyze(graph, images.double(), radius, bound, norms, clip_input, arithmetic)
