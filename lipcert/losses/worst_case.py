"""Losses of worst logits alone: GloRo, over ball and box, and CAP, over the convex relaxation of a ReLU network."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipcert.bounds import worst_logits
from lipcert.crown import Ball, Interval, Rows, State, dual_boxes, split_activations, substitute
from lipcert.graph import Clamp, Graph, UnsupportedLayerError, compile_graph
from lipcert.losses.objective import MARGIN_ROUNDS, Objective, Setting, after_warm_up
from lipcert.losses.options import check_number, check_switch, check_whole

EXCLUDE = ("label", "prediction")


def gloro_logits(logits: Tensor, worst: Tensor, excluded: Tensor) -> Tensor:
    """Append max over j ≠ excluded of z*_j to the clean logits: (B, K) -> (B, K + 1) (appendix B).

    Args:
        logits, worst: clean ones z and worst ones z*, (B, K).
        excluded: the class the extra one competes with, (B,).
    """
    extra = worst.scatter(1, excluded.unsqueeze(1), -torch.inf).amax(dim=1, keepdim=True)
    return torch.cat((logits, extra), dim=1)


def gloro_loss(extended: Tensor, labels: Tensor, weight: float) -> Tensor:
    """Return clean cross-entropy plus `weight` times the mean of -log(1 - q), q the softmax of 'not certified': ().

    With weight 1 this is the cross-entropy over all K + 1 classes. The second term is the KL divergence of the softmax
    over K + 1 classes from that over K, so other weights make GloRo's TRADES loss.

    Args:
        extended: of `gloro_logits`, (B, K + 1).
        labels: (B,).
        weight: lambda, >= 0.

    Source: Leino et al. 2021, "Globally-robust neural networks", and its code.
    """
    logits, extra = extended[:, :-1], extended[:, -1]
    not_certified = F.softplus(extra - torch.logsumexp(logits, dim=1)).mean()
    return F.cross_entropy(logits, labels) + weight * not_certified


class GloRo:
    """Cross-entropy over the classes and the class 'not certified', used alone (appendix B, reference [4] there).

    Args:
        exclude: the class left out of the maximum: "label" (appendix B) or "prediction" (GloRo's own paper).
        box: keep the box constraint in the worst logits; False is GloRo as published.
        weight: lambda of `gloro_loss`; 1 is the cross-entropy.

    Raises:
        ValueError: for another `exclude`, or a weight below 0.
    """

    def __init__(self, exclude: str = "label", box: bool = True, weight: float = 1.0) -> None:
        if exclude not in EXCLUDE:
            raise ValueError(f"Expected `method.exclude` to be one of {list(EXCLUDE)}, got {exclude!r}.")
        self.exclude = exclude
        self.box = check_switch("box", box)
        self.weight = check_number("weight", weight, least=0)
        self.name = "gloro_published" if exclude == "prediction" and not box else "gloro"

    @after_warm_up
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, setting: Setting) -> Objective:
        analysis = setting.analyze(model, images, self.box)
        excluded = labels if self.exclude == "label" else analysis.logits.argmax(dim=1)
        worst = worst_logits(analysis, excluded, self.box, MARGIN_ROUNDS)
        loss = gloro_loss(gloro_logits(analysis.logits, worst, excluded), labels, self.weight)
        return Objective(loss + setting.sparsity(analysis), analysis)


def cap_logits(
    model: nn.Module | Graph,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    projections: int = 0,
    clip_input: bool = False,
) -> Tensor:
    """Return upper bounds of z_j - z_y over the l2 ball, 0 for the label, (B, K): J of Wong and Kolter, negated.

    Differentiable.

    Args:
        model: of plain ReLUs, or its graph.
        images: (B, ...), pixels in [0, 1].
        labels: (B,).
        epsilon: l2 radius in pixels.
        projections: random ones; where they are fewer than a layer's neurons, and not 0, bounds become estimates.
        clip_input: intersect the ball's box with [0, 1].

    Raises:
        UnsupportedLayerError: for clipped activations, and for MaxMin.
    """
    graph = model if isinstance(model, Graph) else compile_graph(model, images.shape[1:])
    for node in graph.activations:
        if not (isinstance(node.function, Clamp) and node.function.low == 0 and node.function.high is None):
            raise UnsupportedLayerError(
                f"Layer {node.name!r}: the dual network is that of ReLUs without thresholds, "
                f"not of {type(node.layer).__name__}."
            )
    (num_classes,) = graph.nodes[-1].shape
    graph = split_activations(graph)
    ball = Ball(images, torch.full((len(images),), epsilon, dtype=images.dtype, device=images.device), clip_input)
    state = State(dual_boxes(graph, ball, projections), otherwise=Interval.parallel)
    image = torch.arange(len(images), device=images.device).repeat_interleave(num_classes - 1)
    offsets = torch.arange(1, num_classes, device=images.device).repeat(len(images))
    other = (labels[image] + offsets) % num_classes
    units = torch.eye(num_classes, dtype=images.dtype, device=images.device)
    rows = substitute(graph, Rows.of(units[labels[image]] - units[other], image), state)
    return images.new_zeros(len(images), num_classes).index_put((image, other), -ball.least(rows))


class CAP:
    """Cross-entropy of the worst logits alone, epsilon rising by schedule (Wong and Kolter 2018; Wong et al. 2018).

    Args:
        projections: random projections with which norms of wide layers are estimated; 0 for exact ones.

    Raises:
        ValueError: for projections below 0 or no whole number.
    """

    name = "cap"
    activations = ("relu",)

    def __init__(self, projections: int = 50) -> None:
        self.projections = check_whole("projections", projections, 0)

    @after_warm_up
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, setting: Setting) -> Objective:
        worst = cap_logits(
            setting.graph or model, images, labels, setting.epsilon, self.projections, setting.clip_input
        )
        return Objective(F.cross_entropy(worst, labels))
