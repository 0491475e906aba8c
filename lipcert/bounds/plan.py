"""Which work a training step may skip: a plan that is measured now and then and handed to the analysis."""

import torch
from torch import Tensor, nn

from lipcert.bounds.activation import Bound
from lipcert.bounds.analysis import Propagation
from lipcert.bounds.product import Plan
from lipcert.graph import Affine, Box, Graph
from lipcert.norms.protocol import Norms

FEW = 8
"""Images of a batch on which gains are measured."""


@torch.no_grad()
def measure_plan(
    graph: Graph,
    images: Tensor,
    epsilon: float,
    bound: Bound | str,
    norms: Norms,
    threshold: float = 0.01,
    clip_input: bool = False,
) -> Plan:
    """Return the plan that skips what gains less than `threshold` on a few images, on average over processes.

    A gain is the fraction by which boxes, norms or the number of inputs of row norms shrink on average; one that is not
    a number skips nothing. Work that nobody asks for is not in the plan.

    Args:
        graph: of the model; images: (B, ...), the first few count.
        epsilon, bound, norms, clip_input: as for `analyze`.
        threshold: smallest gain that is worth its cost.
    """
    training = isinstance(norms, nn.Module) and norms.training
    if isinstance(norms, nn.Module):
        norms.eval()  # a measurement leaves stored vectors as they are
    try:
        gains = _gains(graph, images[:FEW], epsilon, bound, norms, clip_input)
    finally:
        if isinstance(norms, nn.Module):
            norms.train(training)
    small = [key for key, gain in _means(gains).items() if gain < threshold]
    skipped = {work: frozenset(name for kind, name in small if kind == work) for work in ("boxes", "masks", "rows")}
    return Plan(**skipped)


def _gains(
    graph: Graph, images: Tensor, epsilon: float, bound: Bound | str, norms: Norms, clip_input: bool
) -> dict[tuple[str, str], Tensor]:
    """Return what each kind of work at each layer gains, ()."""
    propagation = Propagation(graph, images, epsilon, bound, norms, clip_input)
    gains: dict[tuple[str, str], Tensor] = {}
    for node, region, bounds in propagation.run():
        if bounds is not None and propagation.rule.masks:
            gains["masks", node.name] = 1 - (bounds.masked_norm / bounds.whole_norm).mean()
            if propagation.bound is Bound.TIGHT:
                mask = bounds.mask
                gains["rows", node.name] = images.new_zeros(()) if mask is None else 1 - mask.mean()
        elif isinstance(node, Affine) and node.mixes and region.interval and region.ball_known:
            gains["boxes", node.name] = 1 - _width(region.interval) / _width(region.ball_box())
    return gains


def _width(box: Box) -> Tensor:
    return (box[1] - box[0]).mean()


def _means(gains: dict[tuple[str, str], Tensor]) -> dict[tuple[str, str], float]:
    """Return the mean of each gain over all processes, the same on each."""
    if not gains:
        return {}
    values = torch.stack(list(gains.values()))
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(values)
        values = values / torch.distributed.get_world_size()
    return dict(zip(gains, values.tolist(), strict=True))
