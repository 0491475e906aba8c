"""Certify predictions by one bound: norm upper bounds, strict margins, rounding taken off."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from lipcert.bounds import (
    Analysis,
    Arithmetic,
    Bound,
    UpperNorms,
    analyze,
    check_epsilon,
    logit_rounding,
    worst_increase,
)
from lipcert.bounds.backward import Ball
from lipcert.certificates.arithmetic import executed_dtype
from lipcert.certificates.linear import Margins, Problem, tightened
from lipcert.certificates.validation import check_images, check_labels, check_tensor, double_copy, ordinary

FAILURE_PROBABILITY = 1e-9
"""Probability that one norm's upper bound is wrong; certificates state the union bound over all of them."""

EXECUTED, EXACT = "executed", "exact"

SLACK = 1e-9
"""Relative room for the float64 arithmetic of radii, gains and error bounds."""

LANCZOS_STEPS = 60
"""Within about half a percent of the exact norm on masked convolutions."""

BATCH_SIZE = 32
"""Images bounded at a time: small batches of float64 convolutions are the fastest on CPUs."""

RADIUS_ROUNDS = 6
"""Halvings of the interval in which the proven radius of an uncertified image is sought."""


@dataclass(frozen=True)
class Certificate:
    """What is proved of each image; all tensors are (N,) on the CPU.

    Attributes:
        certified: the prediction is the label, and stays it within `epsilon`.
        margin: lower bound of z_y - z_j over the region and all j ≠ y, in the `arithmetic` that is stated.
        lipschitz: L(x), bound of the Lipschitz constant up to the last activation.
        prediction: the class of the clean image.
        rounding: how much larger the margin of the exact network may be than that of the executed one.
        radius: radius that is proved, at least; `epsilon` where certified, 0 where the prediction is wrong.
        stage: index of the cascade's stage that certified the image, -1 for none; 0 for a single bound.
        epsilon: l2 radius, in pixels of [0, 1], one number or (N,).
        bound: which bound was used, `cascade` for several.
        arithmetic: `executed`, the network in the precision of its weights, which images are converted to, with any
            order of summation; or `exact`, its weights taken as real numbers.
        failure_probability: probability that any statement is wrong, by the union bound over all norms.
    """

    certified: Tensor
    margin: Tensor
    lipschitz: Tensor
    prediction: Tensor
    rounding: Tensor
    radius: Tensor
    stage: Tensor
    epsilon: float | Tensor
    bound: str
    arithmetic: str
    failure_probability: float

    @property
    def certified_accuracy(self) -> float:
        """Fraction of images certified."""
        return self.certified.double().mean().item()

    def correct(self, labels: Tensor) -> Tensor:
        """Return which clean predictions equal `labels`, (N,)."""
        return self.prediction == labels.cpu()


class Certifier:
    """Certifies batches with one float64 copy of a model, whose global norms are bounded once.

    Args:
        model: any tree of supported layers; put into eval mode by the caller.
        bound: one of `Bound`; may be changed between batches.
        lanczos_steps: steps of a norm an image; more certify more, none wrongly.
        failure_probability: of each norm.
        clip_input: intersect the input box with [0, 1].
        arithmetic: `executed` or `exact`, see `Certificate`; the first implies the second.

    `slope_steps`: None for Lipschitz bounds alone; else what they leave open is bounded by backward linear bounds with
    that many steps of optimised slopes, 0 for none. May be changed between batches.

    Raises:
        ValueError: for another `arithmetic` or `bound`.
    """

    slope_steps: int | None = None

    def __init__(
        self,
        model: nn.Module,
        bound: Bound | str = Bound.TIGHT,
        lanczos_steps: int = LANCZOS_STEPS,
        failure_probability: float = FAILURE_PROBABILITY,
        clip_input: bool = False,
        arithmetic: str = EXECUTED,
    ) -> None:
        if arithmetic not in (EXECUTED, EXACT):
            raise ValueError(f"Expected `arithmetic` to be {EXECUTED} or {EXACT}, got {arithmetic!r}.")
        self.arithmetic = arithmetic
        self.dtype = executed_dtype(model)
        with torch.inference_mode(False), torch.no_grad():
            self.model = double_copy(model)
        self.bound = Bound(bound)
        self.norms = UpperNorms(lanczos_steps, failure_probability=failure_probability)
        self.clip_input = clip_input

    @torch.inference_mode(False)  # slopes are optimised by gradients
    @torch.no_grad()
    def __call__(self, images: Tensor, labels: Tensor, epsilon: float | Tensor) -> Certificate:
        """Certify one batch, images (B, ...) and labels (B,), at `epsilon`, one number or (B,)."""
        check_epsilon(epsilon)
        check_images(images)
        images = ordinary(images)
        radius = torch.as_tensor(epsilon, dtype=torch.float64, device=images.device) * (1 + SLACK)
        arithmetic = Arithmetic.of(self.dtype, images.dtype)
        analysis = analyze(self.model, images.double(), radius, self.bound, self.norms, self.clip_input, arithmetic)
        if analysis.logits.dim() != 2:
            shape = tuple(analysis.logits.shape[1:])
            raise ValueError(
                f"Expected a model with a flat vector of logits, got outputs of shape {shape}; flatten them."
            )
        check_labels(labels, *analysis.logits.shape)
        labels = labels.long()
        found = margins(analysis, labels, arithmetic)
        prediction = analysis.logits.argmax(dim=1)
        correct = prediction == labels
        reached = torch.as_tensor(epsilon, dtype=torch.float64, device=images.device).expand(images.shape[0])
        hopeful = correct & ~(self._stated(found) > 0)
        if bool(hopeful.any()):
            proved = proven_radius(analysis, labels, arithmetic, reached, self.arithmetic)
            if self.slope_steps is not None:
                ball = Ball(images.double(), radius.expand(images.shape[0]), self.clip_input)
                found, further = self._tightened(analysis, found, ball, labels, hopeful)
                proved = torch.maximum(proved, further)
            below = torch.nextafter(reached, torch.zeros_like(reached))
            certified = correct & (self._stated(found) > 0)
            reached = torch.where(certified, reached, torch.minimum(proved, below))
        margin, certified = self._stated(found), correct & (self._stated(found) > 0)
        exact, executed = found.smallest()
        return Certificate(
            certified=certified.cpu(),
            margin=margin.cpu(),
            lipschitz=analysis.lipschitz.expand(images.shape[0]).cpu(),
            prediction=prediction.cpu(),
            rounding=torch.where(executed.isinf(), torch.inf, exact - executed).cpu(),
            radius=torch.where(correct, reached, 0).cpu(),
            stage=certified.long().cpu() - 1,
            epsilon=epsilon,
            bound=str(self.bound),
            arithmetic=self.arithmetic,
            failure_probability=self.norms.union_failure_probability,
        )

    def _stated(self, found: Margins) -> Tensor:
        """Return the margins in the arithmetic that is stated, (B,)."""
        exact, executed = found.smallest()
        return executed if self.arithmetic == EXECUTED else exact

    def _tightened(
        self, analysis: Analysis, found: Margins, ball: Ball, labels: Tensor, hopeful: Tensor
    ) -> tuple[Margins, Tensor]:
        """Return what backward linear bounds make of the margins, and the radii they prove."""
        rounding = logit_rounding(analysis, labels) * (1 + SLACK)
        required = rounding if self.arithmetic == EXECUTED else torch.zeros_like(rounding)
        problem = Problem(ball, labels, rounding, required)
        return tightened(self.model, analysis, found, problem, hopeful, self.slope_steps or 0)


def margins(analysis: Analysis, labels: Tensor, arithmetic: Arithmetic) -> Margins:
    """Return lower bounds of margins over the region."""
    worst = analysis.logits + worst_increase(analysis, labels) * (1 + SLACK)
    rounding = logit_rounding(analysis, labels) * (1 + SLACK)
    return Margins.of(worst + arithmetic.analysis * rounding, worst + rounding, labels)


def proven_radius(
    analysis: Analysis, labels: Tensor, arithmetic: Arithmetic, largest: Tensor, stated: str = EXECUTED
) -> Tensor:
    """Return radii below `largest` (B,) at which margins stay positive, (B,), 0 where there is none.

    Lipschitz constants, boxes and rounding of the analysis hold for every smaller radius too.
    """
    proved, refused = torch.zeros_like(largest), largest.clone()
    for _ in range(RADIUS_ROUNDS):
        middle = (proved + refused) / 2
        region = replace(analysis.region, epsilon=middle * (1 + SLACK))
        exact, executed = margins(replace(analysis, region=region), labels, arithmetic).smallest()
        holds = (executed if stated == EXECUTED else exact) > 0
        proved, refused = torch.where(holds, middle, proved), torch.where(holds, refused, middle)
    return proved


def join(certificates: list[Certificate]) -> Certificate:
    """Join the certificates of consecutive batches of one certifier at one epsilon; probabilities are cumulative."""
    last = certificates[-1]
    tensors = [each.name for each in fields(Certificate) if isinstance(getattr(last, each.name), Tensor)]
    joined: dict[str, Any] = {
        name: torch.cat([getattr(certificate, name) for certificate in certificates])
        for name in tensors
        if name != "epsilon"
    }
    return replace(last, **joined)


def _batches(images: Tensor, labels: Tensor, batch_size: int) -> Iterable[tuple[Tensor, Tensor]]:
    check_images(images)
    check_tensor("labels", labels)
    if len(labels) != len(images):
        raise ValueError(f"Expected a label an image, got {len(images)} images and {len(labels)} labels.")
    if batch_size < 1:
        raise ValueError(f"Expected `batch_size` >= 1, got {batch_size}.")
    return zip(images.split(batch_size), labels.split(batch_size), strict=True)


def _certifier(
    model: nn.Module,
    bound: Bound | str | None,
    lanczos_steps: int = LANCZOS_STEPS,
    failure_probability: float = FAILURE_PROBABILITY,
    clip_input: bool = False,
    arithmetic: str = EXECUTED,
) -> Callable[[Tensor, Tensor, float | Tensor], Certificate]:
    if bound is not None:
        return Certifier(model, bound, lanczos_steps, failure_probability, clip_input, arithmetic)
    from lipcert.certificates.cascade import STAGES, Cascade  # it is made of certifiers

    return Cascade(model, STAGES, failure_probability, clip_input, arithmetic)


def certify(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    bound: Bound | str | None = None,
    batch_size: int = BATCH_SIZE,
    clip_input: bool = False,
    lanczos_steps: int = LANCZOS_STEPS,
    failure_probability: float = FAILURE_PROBABILITY,
    arithmetic: str = EXECUTED,
) -> Certificate:
    """Prove which predictions cannot change within an l2 ball.

    Args:
        model: any tree of supported layers, in eval mode.
        images: (N, ...), float, pixels in [0, 1].
        labels: (N,), integers.
        epsilon: radius in pixels of [0, 1], > 0.
        bound: one of `Bound`; None for the cascade of `lipcert.certificates.cascade`, cheapest bound first.
        batch_size: images bounded at a time.
        clip_input: let the adversary only use pixels in [0, 1].
        lanczos_steps: of a norm an image; more certify more, none wrongly. The cascade has its own.
        failure_probability: of each norm; the certificate states the union bound.
        arithmetic: `executed` for the network in the precision of its weights, rounding included; `exact` for its
            weights taken as real numbers, as the literature counts.

    Raises:
        ValueError: for epsilon, images or labels out of range.
        TypeError: for arrays or lists in place of tensors.
        UnsupportedLayerError: naming a layer without a sound rule.

    Source: Theorem 1 and eqs 21-24, with norm upper bounds in place of power iteration.
    """
    certifier = _certifier(model, bound, lanczos_steps, failure_probability, clip_input, arithmetic)
    return join([certifier(*batch, epsilon) for batch in _batches(images, labels, batch_size)])


def certified_radius(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    bound: Bound | str | None = None,
    largest: float = 10.0,
    rounds: int = 20,
    batch_size: int = BATCH_SIZE,
) -> Tensor:
    """Return for each image a radius within which its prediction is proved, (N,); 0 where it is wrong.

    Bisection over epsilon in [0, `largest`]: every radius returned was itself proved. All norms of all rounds count for
    the union bound: about `rounds` * N * layers * `FAILURE_PROBABILITY`.

    Args:
        model, images, labels, bound, batch_size: as for `certify`.
        largest: upper end of the search, in pixels of [0, 1].
        rounds: halvings of the interval at most.

    Raises:
        ValueError, UnsupportedLayerError: as `certify`.
    """
    check_epsilon(largest)
    certifier = _certifier(model, bound)
    radii = []
    for batch, batch_labels in _batches(images, labels, batch_size):
        proved = torch.zeros(batch.shape[0], dtype=torch.float64)
        refused = torch.full_like(proved, largest)
        for _ in range(rounds):
            middle = (proved + refused) / 2
            certificate = certifier(batch, batch_labels, middle.to(batch.device))
            proved = torch.maximum(proved, certificate.radius)
            refused = torch.where(certificate.certified, refused, middle)
        radii.append(proved)
    return torch.cat(radii)
