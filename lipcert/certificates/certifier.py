"""Certifies batches by one bound: upper bounds of norms, strict margins, rounding taken off."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from lipcert.bounds import Analysis, Arithmetic, Bound, check_epsilon, logit_rounding, worst_increase
from lipcert.certificates.certificate import EXACT, EXECUTED, Certificate
from lipcert.certificates.crown_margins import crown_margins
from lipcert.certificates.float64 import LANCZOS_STEPS, SLACK, Float64Model
from lipcert.certificates.radius import bisect
from lipcert.crown import Ball, Effort
from lipcert.system.execution import refuse_interception

RADIUS_ROUNDS = 6
"""Halvings of the interval in which the proved radius of an uncertified image is sought."""

FLUSHED = 4
"""Normal numbers, the smallest, that activations behind the last sum, and comparisons, may take for zero."""


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
        effort: None for Lipschitz bounds alone; else what they leave undecided is bounded by backward linear bounds.

    Raises:
        ValueError: for another `arithmetic` or `bound`.
    """

    network: Float64Model
    bound: Bound | str = Bound.TIGHT
    lanczos_steps: int = LANCZOS_STEPS
    clip_input: bool = False
    arithmetic: str = EXECUTED
    constant_share: float = 0.0
    effort: Effort | None = None

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
        check_images(images)
        check_epsilon(epsilon, len(images))
        images = ordinary(images)
        arithmetic = Arithmetic.of(self.network.dtype, images.dtype)
        radii = torch.as_tensor(epsilon, dtype=torch.float64, device=images.device).expand(len(images))
        conversion = self._conversion(images, radii)
        analysis = self.network.analyze(
            images,
            _widened(radii, conversion),
            self.bound,
            self.lanczos_steps,
            self.constant_share,
            self.clip_input,
            arithmetic,
            self.arithmetic == EXECUTED,
        )
        logits = analysis.logits
        check_logits(logits)
        check_labels(labels, *logits.shape)
        labels = labels.long()
        prediction = logits.argmax(dim=1)
        correct = prediction == labels
        margins = _margins(analysis, logits, labels, arithmetic)
        proved = torch.zeros_like(radii)
        undecided = correct & ~(self._margin(margins) > 0)
        if bool(undecided.any()):
            proved = self._proved_radius(analysis, labels, arithmetic, radii, conversion)
            if self.effort is not None:
                margins, further = self._with_crown(
                    analysis, margins, images, labels, _widened(radii, conversion), undecided, self.effort, arithmetic
                )
                proved = torch.maximum(proved, _narrowed(further, conversion))
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

    def _conversion(self, images: Tensor, radii: Tensor) -> Tensor:
        """Return how far points of the ball move when they are converted to the network's precision, at most, (B,)."""
        if self.arithmetic == EXACT:
            return torch.zeros_like(radii)
        precision, lengths = torch.finfo(self.network.dtype), images.double().flatten(1).norm(dim=1)
        return precision.eps / 2 * (lengths + radii) + precision.tiny * images[0].numel() ** 0.5

    def _proved_radius(
        self, analysis: Analysis, labels: Tensor, arithmetic: Arithmetic, largest: Tensor, conversion: Tensor
    ) -> Tensor:
        """Return radii below `largest` (B,) at which margins stay positive, (B,), 0 where there is none.

        Lipschitz constants, boxes and rounding of the analysis hold for every smaller radius too.
        """

        def proved(rows: Tensor, radii: Tensor) -> Tensor:
            epsilon = _widened(largest.index_put((rows,), radii), conversion) * (1 + SLACK)
            smaller = replace(analysis, region=replace(analysis.region, epsilon=epsilon))
            margin = self._margin(_margins(smaller, smaller.logits, labels, arithmetic))
            return torch.where(margin[rows] > 0, radii, 0)

        return bisect(proved, torch.zeros_like(largest), largest, RADIUS_ROUNDS)

    def _with_crown(
        self,
        analysis: Analysis,
        margins: Margins,
        images: Tensor,
        labels: Tensor,
        radii: Tensor,
        undecided: Tensor,
        effort: Effort,
        arithmetic: Arithmetic,
    ) -> tuple[Margins, Tensor]:
        """Return margins that backward linear bounds raise for the images `undecided`, and radii they prove, (B,).

        `radii`, and what is proved, are those of converted points.
        """
        rounding = logit_rounding(analysis, labels) * (1 + SLACK) + FLUSHED * arithmetic.tiny
        required = rounding if self.arithmetic == EXECUTED else torch.zeros_like(rounding)
        ball = Ball(images.double(), radii * (1 + SLACK), self.clip_input)
        pairs = undecided.unsqueeze(1) & ~(margins.executed > 0)
        if effort.classes is not None:
            undecided = undecided & (pairs.sum(dim=1) <= effort.classes)
            pairs = pairs & undecided.unsqueeze(1)
            if not bool(undecided.any()):
                return margins, torch.zeros_like(radii)
        exact, radius = crown_margins(analysis, ball, labels, pairs, required, effort)
        raised = Margins(_larger(margins.exact, exact), _larger(margins.executed, exact - rounding))
        return raised, torch.where(undecided, radius, 0)


def _margins(analysis: Analysis, logits: Tensor, labels: Tensor, arithmetic: Arithmetic) -> Margins:
    """Return lower bounds of margins over the region of the analysis, whose center are the `logits`."""
    worst = logits + worst_increase(analysis, labels) * (1 + SLACK)
    rounding = logit_rounding(analysis, labels) * (1 + SLACK)
    own = labels.unsqueeze(1)

    def below(worst: Tensor) -> Tensor:
        return (worst.gather(1, own) - worst).scatter(1, own, torch.inf)

    flushed = FLUSHED * arithmetic.tiny
    return Margins(below(worst + arithmetic.analysis * rounding), below(worst + rounding) - flushed)


def _widened(radii: Tensor, conversion: Tensor) -> Tensor:
    """Return the radius that converted points stay within, (B,): none moves farther than it is from the image."""
    return radii + torch.minimum(radii, conversion)


def _narrowed(radii: Tensor, conversion: Tensor) -> Tensor:
    """Return radii, (B,), around images whose points are converted to points within `radii`."""
    narrower = radii * (1 - 2 * SLACK)
    return torch.maximum(narrower - conversion, narrower / 2)


def _larger(known: Tensor, other: Tensor) -> Tensor:
    """Return the elementwise maximum; a NaN in `known` stays, one in `other` changes nothing."""
    return torch.where(other > known, other, known)


def check_tensor(name: str, value: object) -> None:
    """Raise TypeError for a list or an array in place of a tensor."""
    if not isinstance(value, Tensor):
        kind = f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")
        raise TypeError(f"Expected `{name}` as a torch.Tensor, got a {kind}; torch.as_tensor makes one.")


def check_images(images: Tensor) -> None:
    """Raise TypeError or ValueError unless images are a non-empty float batch with pixels in [0, 1].

    ValueError, too, as in `refuse_interception`: what is seen of them would be another's word.
    """
    refuse_interception()
    check_tensor("images", images)
    if images.dim() < 2 or images.shape[0] == 0:
        raise ValueError(f"Expected a non-empty batch of images (B, ...), got shape {tuple(images.shape)}.")
    if images.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"Expected images in float32 or float64, got {images.dtype}.")
    inside = ((images >= 0) & (images <= 1)).flatten(1).all(dim=1)  # NaN compares false
    if not bool(inside.all()):
        row = int((~inside).nonzero()[0])
        raise ValueError(f"Expected pixels in [0, 1]; image {row} has others. Divide 8-bit pixels by 255.")


def check_pairs(images: Tensor, labels: Tensor) -> None:
    """Raise TypeError or ValueError unless there are images, as `check_images` has them, and a label for each."""
    check_images(images)
    check_tensor("labels", labels)
    if len(labels) != len(images):
        raise ValueError(f"Expected a label an image, got {len(images)} images and {len(labels)} labels.")


def check_logits(logits: Tensor) -> None:
    """Raise ValueError unless a model's outputs are (B, K), K >= 2."""
    if logits.dim() != 2:
        shape = tuple(logits.shape[1:])
        raise ValueError(f"Expected a model with a flat vector of logits, got outputs of shape {shape}; flatten them.")
    if logits.shape[1] < 2:
        raise ValueError(
            f"Expected a logit a class, two at least, got {logits.shape[1]}; where the sign of a single z decides, "
            "certify the model with an nn.Linear behind it that yields 0 and z."
        )


def check_labels(labels: Tensor, num_images: int, num_classes: int) -> None:
    """Raise TypeError or ValueError unless labels are integers in [0, num_classes), one an image."""
    check_tensor("labels", labels)
    if labels.shape != (num_images,) or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"Expected {num_images} integer labels, got shape {tuple(labels.shape)} of {labels.dtype}.")
    if bool(((labels < 0) | (labels >= num_classes)).any()):
        row = int(((labels < 0) | (labels >= num_classes)).nonzero()[0])
        raise ValueError(f"Expected labels in [0, {num_classes}), got {int(labels[row])} in row {row}.")


def ordinary(tensor: Tensor) -> Tensor:
    """Return a tensor that gradients may be computed with, a copy of one that was made in inference mode."""
    return tensor.clone() if tensor.is_inference() else tensor
