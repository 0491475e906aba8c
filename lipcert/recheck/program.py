"""A module tree as a straight-line program of affine layers, additions and activations, and the linear maps in it."""

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lipcert.nn import GroupSort2, LayerGraph, Residual, Sum
from lipcert.nn.integrity import refuse_altered, refuse_unreadable
from lipcert.recheck.activations import Activation, describe_activation
from lipcert.recheck.affine import Affine, describe
from lipcert.recheck.layers import register_transforms

INERT = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d)
CONTAINERS = (nn.Sequential, GroupSort2, LayerGraph, Residual, Sum, *INERT)


@dataclass(frozen=True, eq=False)
class AffineStep:
    """Value `target` = affine(value `source`)."""

    source: int
    target: int
    affine: Affine


@dataclass(frozen=True, eq=False)
class AddStep:
    """Value `target` = value `first` + value `second`."""

    first: int
    second: int
    target: int


@dataclass(frozen=True, eq=False)
class ActivationStep:
    """Value `target` = activation(value `source`)."""

    source: int
    target: int
    activation: Activation


Step = AffineStep | AddStep | ActivationStep


@dataclass(frozen=True, eq=False)
class Program:
    """Steps in order of execution; value 0 is the image, `output` the logits.

    `shapes`: the shape of every value without the batch; `dtype`: the one in which the network executes.
    """

    steps: tuple[Step, ...]
    shapes: tuple[tuple[int, ...], ...]
    output: int
    dtype: torch.dtype

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Return all values at `images`, (B, *image shape), in float64."""
        values = [images.double()]
        for step in self.steps:
            if isinstance(step, AffineStep):
                values.append(step.affine.whole(values[step.source]))
            elif isinstance(step, AddStep):
                values.append(values[step.first] + values[step.second])
            else:
                values.append(step.activation(values[step.source]))
        return values


def compile_program(model: nn.Module, image_shape: Sequence[int]) -> Program:
    """Return the program of a network in eval mode.

    Raises:
        NotImplementedError: naming a layer that is not supported, carries a hook or a forward of its own.
        ValueError: for weights that are not finite, of mixed or unsupported dtype, or shapes that do not fit.
    """
    register_transforms()
    kinds = {*CONTAINERS, *describe.registry, *describe_activation.registry}
    for name, module in model.named_modules():
        _require_supported(module, name, kinds)
    refuse_altered(model.named_modules(), kinds)
    refuse_unreadable(model)
    dtype = _dtype(model)
    steps: list[Step] = []
    with torch.no_grad():
        output = _append(steps, copy.deepcopy(model).double().eval(), "", 0)
        values = Program(tuple(steps), (), output, dtype)(torch.zeros(1, *image_shape, dtype=torch.float64))
    for step in steps:
        if isinstance(step, AddStep) and values[step.first].shape != values[step.second].shape:
            raise ValueError("A residual block or a Sum adds two values of different shapes.")
    if values[output].dim() != 2:
        raise ValueError(f"Expected logits (B, classes), got shape {tuple(values[output].shape)}.")
    shapes = tuple(tuple(value.shape[1:]) for value in values)
    return Program(tuple(_sized(step, shapes) for step in steps), shapes, output, dtype)


def _sized(step: Step, shapes: Sequence[tuple[int, ...]]) -> Step:
    """Return a step with the affine map that its layer is on inputs of its source's shape."""
    if not isinstance(step, AffineStep) or step.affine.of_images is None:
        return step
    return replace(step, affine=step.affine.of_images(shapes[step.source]))


def _append(steps: list[Step], module: nn.Module, name: str, source: int) -> int:
    """Append a module's steps and return the number of its output value."""
    if isinstance(module, nn.Sequential):
        for child_name, child in module._modules.items():  # named_children would drop a layer used twice
            assert child is not None
            source = _append(steps, child, f"{name}.{child_name}" if name else child_name, source)
        return source
    if isinstance(module, Residual):
        prefix = f"{name}." if name else ""
        first = _append(steps, module.branch, f"{prefix}branch", source)
        second = _append(steps, module.shortcut, f"{prefix}shortcut", source)
        steps.append(AddStep(first, second, len(steps) + 1))
    elif isinstance(module, LayerGraph):
        return _append_graph(steps, module, name, source)
    elif isinstance(module, INERT):
        return source
    elif type(module) in describe_activation.registry:
        steps.append(ActivationStep(source, len(steps) + 1, describe_activation(module, name)))
    else:
        steps.append(AffineStep(source, len(steps) + 1, describe(module, name)))
    return len(steps)


def _append_graph(steps: list[Step], module: LayerGraph, name: str, source: int) -> int:
    """Append a graph's steps and return the number of its output value."""
    values = {"": source}
    for (child_name, child), sources in zip(module._modules.items(), module.sources, strict=True):
        assert child is not None
        known = [values[each] for each in sources]
        if isinstance(child, Sum):
            first, second = known
            steps.append(AddStep(first, second, len(steps) + 1))
            values[child_name] = len(steps)
        else:
            (only,) = known
            values[child_name] = _append(steps, child, f"{name}.{child_name}" if name else child_name, only)
        source = values[child_name]
    return source


def _require_supported(module: nn.Module, name: str, kinds: Collection[type]) -> None:
    if type(module) not in kinds:
        raise NotImplementedError(f"Layer {name!r} ({type(module).__name__}) cannot be re-checked.")
    if module.training:
        raise NotImplementedError(f"Layer {name!r} is in training mode; call model.eval() first.")


def _dtype(model: nn.Module) -> torch.dtype:
    tensors = [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()]
    dtypes = {tensor.dtype for tensor in tensors}
    if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float64}:
        raise ValueError(f"Expected a network all in float32 or all in float64, got {sorted(map(str, dtypes))}.")
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise ValueError("The network has weights that are not finite.")
    return dtypes.pop() if dtypes else torch.float32


@dataclass(frozen=True, eq=False)
class LinearMap:
    """J from value `start` to value `end`: affine layers without bias, activations as multiplications by slopes.

    `slopes`: for the target of every activation that is not cut, its slope, (1, ...).
    """

    steps: tuple[Step, ...]
    start: int
    end: int
    start_shape: tuple[int, ...]
    end_shape: tuple[int, ...]
    slopes: Mapping[int, Tensor]

    def apply(self, values: Tensor) -> Tensor:
        """Return J v for each of a batch, (B, *start shape) -> (B, *end shape)."""
        known = {self.start: values}
        for step in self.steps:
            if isinstance(step, AffineStep):
                known[step.target] = step.affine.linear(known[step.source])
            elif isinstance(step, ActivationStep):
                known[step.target] = self.slopes[step.target] * known[step.source]
            else:
                terms = [known[value] for value in (step.first, step.second) if value in known]
                known[step.target] = terms[0] if len(terms) == 1 else terms[0] + terms[1]
        return known[self.end]

    def adjoint(self, values: Tensor) -> Tensor:
        """Return Jᵀ w for each of a batch, (B, *end shape) -> (B, *start shape)."""
        return Adjoint(self, values.shape[0])(values)


class Adjoint:
    """Jᵀ for a fixed batch size; the graph is built once."""

    def __init__(self, linear_map: LinearMap, batch: int) -> None:
        with torch.enable_grad():
            self.inputs = torch.zeros(batch, *linear_map.start_shape, dtype=torch.float64, requires_grad=True)
            self.outputs = linear_map.apply(self.inputs)

    def __call__(self, values: Tensor) -> Tensor:
        """Return Jᵀ w, (B, *end shape) -> (B, *start shape), differentiable by w where w asks for it."""
        differentiable = values.requires_grad
        (result,) = torch.autograd.grad(self.outputs, self.inputs, values, True, differentiable)
        return result


def linear_map(program: Program, start: int, end: int, slopes: Mapping[int, Tensor]) -> LinearMap | None:
    """Return J from value `start` to value `end` with activations cut unless in `slopes`; None where no path leads."""
    forward, reached = [], {start}
    for step in program.steps:
        if step.target != start and _sources(step, slopes) & reached:
            reached.add(step.target)
            forward.append(step)
    if end not in reached:
        return None
    kept, wanted = [], {end}
    for step in reversed(forward):
        if step.target in wanted:
            wanted |= _sources(step, slopes) & reached
            kept.append(step)
    return LinearMap(tuple(reversed(kept)), start, end, program.shapes[start], program.shapes[end], slopes)


def single_map(step: AffineStep, program: Program) -> LinearMap:
    """Return the matrix of one layer."""
    shapes = program.shapes
    return LinearMap((step,), step.source, step.target, shapes[step.source], shapes[step.target], {})


def _sources(step: Step, slopes: Mapping[int, Tensor]) -> set[int]:
    if isinstance(step, AddStep):
        return {step.first, step.second}
    if isinstance(step, ActivationStep) and step.target not in slopes:
        return set()
    return {step.source}
