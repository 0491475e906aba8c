"""Certify predictions: float64 arithmetic, norm upper bounds, strict margins."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lipcert.bounds import Bound, LanczosNorms, analyze, check_epsilon, robust_margin, worst_logits
from lipcert.certificates.validation import check_images, check_labels, double_copy

FAILURE_PROBABILITY = 1e-9
"""Probability that one norm's upper bound is wrong; certificates state the union bound over all of them."""

SLACK = 1e-9
"""A margin counts only above this times the size of logits and gains: room for float64 rounding."""

LANCZOS_STEPS = 60
"""Within about a percent of the exact norm on masked convolutions."""


@dataclass(frozen=True)
class Certificate:
    """What is proved of each image; all tensors are (N,) on the CPU.

    Attributes:
        certified: the prediction is the label, and stays it within `epsilon`.
        margin: lower bound of z_y - z_j over the region and all j ≠ y, rounding slack taken off.
        lipschitz: L(x), bound of the Lipschitz constant up to the last activation.
        prediction: the class of the clean image.
        epsilon: l2 radius, in pixels of [0, 1], one number or (N,).
        bound: which bound was used.
        failure_probability: probability that any statement is wrong, by the union bound over all norms.
    """

    certified: Tensor
    margin: Tensor
    lipschitz: Tensor
    prediction: Tensor
    epsilon: float | Tensor
    bound: str
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
        bound: `global`, `local` or `tight`.
        lanczos_steps: steps of a norm an image; more certify more, none wrongly.
        failure_probability: of each norm.
        clip_input: intersect the input box with [0, 1].
    """

    def __init__(
        self,
        model: nn.Module,
        bound: Bound | str = Bound.TIGHT,
        lanczos_steps: int = LANCZOS_STEPS,
        failure_probability: float = FAILURE_PROBABILITY,
        clip_input: bool = False,
    ) -> None:
        self.model = double_copy(model)
        self.bound = Bound(bound)
        self.norms = LanczosNorms(lanczos_steps, failure_probability=failure_probability)
        self.clip_input = clip_input

    @torch.no_grad()
    def __call__(self, images: Tensor, labels: Tensor, epsilon: float | Tensor) -> Certificate:
        """Certify one batch, images (B, ...) and labels (B,), at `epsilon`, one number or (B,)."""
        check_epsilon(epsilon)
        check_images(images)
        analysis = analyze(self.model, images.double(), epsilon, self.bound, self.norms, self.clip_input)
        check_labels(labels, *analysis.logits.shape)
        labels = labels.long()
        worst = worst_logits(analysis, labels)
        size = analysis.logits.abs().amax(dim=1) + (worst - analysis.logits).abs().amax(dim=1)
        margin = robust_margin(worst, labels) - SLACK * size
        prediction = analysis.logits.argmax(dim=1)
        return Certificate(
            certified=((margin > 0) & (prediction == labels)).cpu(),
            margin=margin.cpu(),
            lipschitz=analysis.lipschitz.expand(images.shape[0]).cpu(),
            prediction=prediction.cpu(),
            epsilon=epsilon,
            bound=str(self.bound),
            failure_probability=self.norms.union_failure_probability,
        )


def join(certificates: list[Certificate]) -> Certificate:
    """Join the certificates of consecutive batches of one certifier at one epsilon; probabilities are cumulative."""
    last = certificates[-1]
    return Certificate(
        certified=torch.cat([certificate.certified for certificate in certificates]),
        margin=torch.cat([certificate.margin for certificate in certificates]),
        lipschitz=torch.cat([certificate.lipschitz for certificate in certificates]),
        prediction=torch.cat([certificate.prediction for certificate in certificates]),
        epsilon=last.epsilon,
        bound=last.bound,
        failure_probability=last.failure_probability,
    )


def certify(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    bound: Bound | str = Bound.TIGHT,
    batch_size: int = 100,
    clip_input: bool = False,
    lanczos_steps: int = LANCZOS_STEPS,
    failure_probability: float = FAILURE_PROBABILITY,
) -> Certificate:
    """Prove which predictions cannot change within an l2 ball.

    Args:
        model: any tree of supported layers, in eval mode.
        images: (N, ...), float, pixels in [0, 1].
        labels: (N,), integers.
        epsilon: radius in pixels of [0, 1], > 0.
        bound: `global`, `local` or `tight`.
        batch_size: images bounded at a time.
        clip_input: let the adversary only use pixels in [0, 1].
        lanczos_steps: steps of a norm an image; more certify more, none wrongly.
        failure_probability: of each norm; the certificate states the union bound.

    Raises:
        ValueError: for epsilon, images or labels out of range.
        UnsupportedLayerError: naming a layer without a sound rule.

    Source: Theorem 1 and eqs 21-24, with norm upper bounds in place of power iteration.
    """
    check_images(images)
    certifier = Certifier(model, bound, lanczos_steps, failure_probability, clip_input)
    batches = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    return join([certifier(batch, batch_labels, epsilon) for batch, batch_labels in batches])


def certified_radius(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    bound: Bound | str = Bound.TIGHT,
    largest: float = 10.0,
    rounds: int = 20,
    batch_size: int = 100,
) -> Tensor:
    """Return for each image a radius within which its prediction is proved, (N,); 0 where it is wrong.

    Bisection over epsilon in [0, `largest`]: every radius returned was itself certified. All norms of all rounds
    count for the union bound: about `rounds` * N * layers * `FAILURE_PROBABILITY`.

    Args:
        model, images, labels, bound, batch_size: as for `certify`.
        largest: upper end of the search, in pixels of [0, 1].
        rounds: halvings of the interval.

    Raises:
        ValueError, UnsupportedLayerError: as `certify`.
    """
    check_images(images)
    check_epsilon(largest)
    certifier = Certifier(model, bound)
    radii = []
    for batch, batch_labels in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        proved = torch.zeros(batch.shape[0], dtype=torch.float64)
        refused = torch.full_like(proved, largest)
        for _ in range(rounds):
            middle = (proved + refused) / 2
            certified = certifier(batch, batch_labels, middle).certified
            proved, refused = torch.where(certified, middle, proved), torch.where(certified, refused, middle)
        radii.append(proved)
    return torch.cat(radii)
