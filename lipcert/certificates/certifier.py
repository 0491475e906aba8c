"""Certifies batches by one bound: upper bounds of norms, strict margins, rounding taken off."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lipcert.bounds import Analysis, Arithmetic, Bound, analyze, check_epsilon, logit_rounding, worst_increase
from lipcert.certificates.certificate import EXACT, EXECUTED, Certificate
from lipcert.certificates.crown_margins import crown_margins
from lipcert.certificates.radius import bisect
from lipcert.certificates.validation import (
    check_images,
    check_labels,
    check_logits,
    double_copy,
    executed_dtype,
    ordinary,
)
from lipcert.crown import Ball
from lipcert.graph import Graph, compile_graph
from lipcert.norms import UpperNorms

FAILURE_PROBABILITY = 1e-9
"""Probability that one norm's upper bound is wrong; certificates carry the union bound over all of them."""

SLACK = 1e-9
"""Relative room for the float64 arithmetic of radii, gains and error bounds."""

LANCZOS_STEPS = 60
"""Within about half a percent of the exact norm on masked convolutions."""

RADIUS_ROUNDS = 6
"""Halvings of the interval in which the proved radius of an uncertified image is sought."""


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
    ) -> Analysis:
        """Return what `bound` proves of images (B, ...) within `epsilon`, a number or (B,).

        Args:
            images, epsilon, bound, clip_input, arithmetic: as in `lipcert.bounds.analyze`.
            lanczos_steps: of a masked norm.
            constant_share: where a smaller share of the units is constant, the global norm serves.
        """
        norms = self.norms.with_steps(lanczos_steps, constant_share)
        radius = torch.as_tensor(epsilon, dtype=torch.float64, device=images.device) * (1 + SLACK)
        graph = self.graph(images.shape[1:])
        return analyze(graph, images.double(), radius, bound, norms, clip_input, arithmetic)


class Margins(NamedTuple):
    """Lower bounds of z_y - z_j over the region, (B, K), infinite for the label: of the exact network, as executed."""

    exact: Tensor
    executed: Tensor


@dataclass(frozen=True)
class Certifier:
    """Certifies batches by one bound.

    Args:
        network: the model, with its global norms.
        bound: one of `Bound`.
        lanczos_steps: of a masked norm; more certify more, none wrongly.
        clip_input: intersect the input box with [0, 1].
        arithmetic: `executed` or `exact`, see `Certificate`; the first implies the second.
        constant_share: the least share of constant units at which a layer's masked norm is bounded; below it the
            global norm serves.
        slope_steps: None for Lipschitz bounds alone; else what they leave undecided is bounded by backward linear
            bounds with that many steps of optimised slopes, 0 for none.

    Raises:
        ValueError: for another `arithmetic` or `bound`.
    """

    network: Float64Model
    bound: Bound | str = Bound.TIGHT
    lanczos_steps: int = LANCZOS_STEPS
    clip_input: bool = False
    arithmetic: str = EXECUTED
    constant_share: float = 0.0
    slope_steps: int | None = None

    def __post_init__(self) -> None:
        Bound(self.bound)
        if self.arithmetic not in (EXECUTED, EXACT):
            raise ValueError(f"Expected `arithmetic` to be {EXECUTED} or {EXACT}, got {self.arithmetic!r}.")

    @torch.inference_mode(False)  # slopes are optimised by gradients
    @torch.no_grad()
    def __call__(self, images: Tensor, labels: Tensor, epsilon: float | Tensor) -> Certificate:
        """Certify one batch, images (B, ...) and labels (B,), at `epsilon`, one number or (B,).

        Raises:
            ValueError, TypeError, UnsupportedLayerError: as in `certify`.
        """
        check_epsilon(epsilon)
        check_images(images)
        images = ordinary(images)
        arithmetic = Arithmetic.of(self.network.dtype, images.dtype)
        analysis = self.network.analyze(
            images, epsilon, self.bound, self.lanczos_steps, self.constant_share, self.clip_input, arithmetic
        )
        logits = analysis.logits
        check_logits(logits)
        check_labels(labels, *logits.shape)
        labels = labels.long()
        prediction = logits.argmax(dim=1)
        correct = prediction == labels
        margins = _margins(analysis, logits, labels, arithmetic)
        radii = torch.as_tensor(epsilon, dtype=torch.float64, device=images.device).expand(len(images))
        proved = torch.zeros_like(radii)
        undecided = correct & ~(self._margin(margins) > 0)
        if bool(undecided.any()):
            proved = self._proved_radius(analysis, labels, arithmetic, radii)
            if self.slope_steps is not None:
                margins, further = self._with_crown(analysis, margins, images, labels, radii, undecided)
                proved = torch.maximum(proved, further)
        margin = self._margin(margins)
        certified = correct & (margin > 0)
        below = torch.nextafter(radii, torch.zeros_like(radii))
        exact, executed = (each.amin(dim=1) for each in margins)
        return Certificate(
            certified=certified.cpu(),
            margin=margin.cpu(),
            lipschitz=analysis.lipschitz.expand(len(images)).cpu(),
            prediction=prediction.cpu(),
            rounding=torch.where(executed.isinf(), torch.inf, exact - executed).cpu(),
            radius=torch.where(certified, radii, torch.where(correct, torch.minimum(proved, below), 0)).cpu(),
            stage=certified.long().cpu() - 1,
            epsilon=epsilon,
            bound=str(self.bound),
            arithmetic=self.arithmetic,
            failure_probability=self.network.norms.union_failure_probability,
        )

    def _margin(self, margins: Margins) -> Tensor:
        """Return the smallest margin of each image in the certifier's arithmetic, (B,). NaN stays NaN."""
        return (margins.executed if self.arithmetic == EXECUTED else margins.exact).amin(dim=1)

    def _proved_radius(self, analysis: Analysis, labels: Tensor, arithmetic: Arithmetic, largest: Tensor) -> Tensor:
        """Return radii below `largest` (B,) at which margins stay positive, (B,), 0 where there is none.

        Lipschitz constants, boxes and rounding of the analysis hold for every smaller radius too.
        """

        def proved(rows: Tensor, radii: Tensor) -> Tensor:
            epsilon = largest.index_put((rows,), radii) * (1 + SLACK)
            smaller = replace(analysis, region=replace(analysis.region, epsilon=epsilon))
            margin = self._margin(_margins(smaller, smaller.logits, labels, arithmetic))
            return torch.where(margin[rows] > 0, radii, 0)

        return bisect(proved, torch.zeros_like(largest), largest, RADIUS_ROUNDS)

    def _with_crown(
        self, analysis: Analysis, margins: Margins, images: Tensor, labels: Tensor, radii: Tensor, undecided: Tensor
    ) -> tuple[Margins, Tensor]:
        """Return margins that backward linear bounds raise for the images `undecided`, and radii they prove, (B,)."""
        rounding = logit_rounding(analysis, labels) * (1 + SLACK)
        required = rounding if self.arithmetic == EXECUTED else torch.zeros_like(rounding)
        ball = Ball(images.double(), radii * (1 + SLACK), self.clip_input)
        pairs = undecided.unsqueeze(1) & ~(margins.executed > 0)
        exact, radius = crown_margins(analysis, ball, labels, pairs, required, self.slope_steps or 0)
        raised = Margins(_larger(margins.exact, exact), _larger(margins.executed, exact - rounding))
        return raised, torch.where(undecided, radius, 0)


def _margins(analysis: Analysis, logits: Tensor, labels: Tensor, arithmetic: Arithmetic) -> Margins:
    """Return lower bounds of margins over the region of the analysis, whose center are the `logits`."""
    worst = logits + worst_increase(analysis, labels) * (1 + SLACK)
    rounding = logit_rounding(analysis, labels) * (1 + SLACK)
    own = labels.unsqueeze(1)

    def below(worst: Tensor) -> Tensor:
        return (worst.gather(1, own) - worst).scatter(1, own, torch.inf)

    return Margins(below(worst + arithmetic.analysis * rounding), below(worst + rounding))


def _larger(known: Tensor, other: Tensor) -> Tensor:
    """Return the elementwise maximum; a NaN in `known` stays, one in `other` changes nothing."""
    return torch.where(other > known, other, known)
