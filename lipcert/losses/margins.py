"""Losses of Lipschitz margins: EMMA, LA, CRM and CLL. Each compares z_y - z_j with how fast it can shrink."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipcert.bounds import Analysis, worst_increase
from lipcert.losses.objective import MARGIN_ROUNDS, Objective, Setting, after_warm_up
from lipcert.losses.options import check_number, check_switch

SMALLEST_SLOPE = 1e-6
"""Pairs of classes whose logits hardly differ in slope are given this one, so that radii stay finite."""

LARGEST_RADIUS = 1e6
"""Pixels; larger radii are set to this, without a gradient."""


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Return z_y - z_j, (B, K); 0 for the label. `logits`: (B, K); `labels`: (B,)."""
    return logits.gather(1, labels.unsqueeze(1)) - logits


def pair_slopes(analysis: Analysis, labels: Tensor, box: bool) -> Tensor:
    """Return by how much z_j - z_y may grow inside the region, a pixel of its radius: (B, K).

    Without the box it is ||w_j - w_y|| L(x), a Lipschitz constant of the pair up to the radius epsilon. With the box
    it is smaller, and tells what happens at the radius epsilon only.
    """
    return worst_increase(analysis, labels, box, MARGIN_ROUNDS) / analysis.region.epsilon.unsqueeze(1)


def pair_radii(margins: Tensor, slopes: Tensor) -> Tensor:
    """Return margins / slopes, (B, K), kept between finite limits.

    A radius is at least epsilon just where the bound at epsilon certifies the pair. For a global bound without the
    box it is a lower bound of the distance to the pair's decision boundary, at any length.
    """
    slopes = slopes.clamp_min(SMALLEST_SLOPE)
    far = margins > LARGEST_RADIUS * slopes
    radii = torch.where(far, 1.0, margins) / torch.where(far, 1.0, slopes)
    return torch.where(far, LARGEST_RADIUS, radii)


def emma_logits(logits: Tensor, increase: Tensor, labels: Tensor, floor: float) -> Tensor:
    """Return z_j - z_y + s_j g_j with s_j = clip((z_y - z_j) / g_j, floor, 1) held constant, (B, K); 0 for the label.

    g_j is by how much z_j may gain on z_y inside the region: epsilon K_jy for a global Lipschitz bound, so that
    s_j epsilon is the radius at which class j draws level, at most epsilon. Gradients reach g_j, not s_j.

    Args:
        logits, increase: z and g, (B, K).
        labels: (B,).
        floor: least share, in [0, 1].
    """
    margin = margins(logits, labels)
    share = (margin / increase.clamp_min(torch.finfo(increase.dtype).tiny)).clamp(floor, 1).detach()
    return (share * increase - margin).scatter(1, labels.unsqueeze(1), 0)


class EMMA:
    """Cross-entropy of logits that each class has raised until it draws level with the label, or to epsilon.

    Efficient margin maximisation: classes already ahead of the label keep `floor` of their increase, so that the
    Lipschitz bound goes on being learnt. The published loss has the global bound and no box; here any bound, and the
    increase at epsilon is scaled by s_j, which for a local bound or with the box is not that at the radius s_j epsilon.

    Args:
        floor: least share of the increase, in [0, 1].
        box: keep the box constraint in the increase.

    Raises:
        ValueError: for options out of range.

    Source: Hu et al. 2023, "Unlocking deterministic robustness certification on ImageNet", and its code.
    """

    name = "emma"

    def __init__(self, floor: float = 0.01, box: bool = True) -> None:
        self.floor = check_number("floor", floor, least=0)
        if self.floor > 1:
            raise ValueError(f"Expected `method.floor` in [0, 1], got {floor!r}.")
        self.box = check_switch("box", box)

    @after_warm_up
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, setting: Setting) -> Objective:
        analysis = setting.analyze(model, images, self.box)
        increase = worst_increase(analysis, labels, self.box, MARGIN_ROUNDS)
        loss = self.loss(emma_logits(analysis.logits, increase, labels, self.floor), labels)
        return Objective(loss + setting.sparsity(analysis), analysis)

    def loss(self, raised: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of `raised` logits, (B, K), with `labels`, (B,): ()."""
        return F.cross_entropy(raised, labels)


def annealed_cross_entropy(
    logits: Tensor, labels: Tensor, offset: float, temperature: float, exponent: float
) -> Tensor:
    """Return the batch's mean of -T (1 - p)^beta log p, p the softmax at y of (z - offset e_y) / T: ().

    Args:
        logits: z, (B, K).
        labels: y, (B,).
        offset: that the label has to make up for.
        temperature: T.
        exponent: beta: images whose p is large count for the less, the larger it is; 0 for cross-entropy.
    """
    shifted = logits - offset * F.one_hot(labels, logits.shape[1])
    entropy = F.cross_entropy(shifted / temperature, labels, reduction="none")
    return (temperature * (-torch.expm1(-entropy)).pow(exponent) * entropy).mean()


class LA(EMMA):
    """Logit annealing: EMMA's logits, the label's lowered by an offset, in a cross-entropy that margins anneal.

    Images whose margin is large enough cost nothing more, so that capacity goes to the others. For networks whose
    logits are 1-Lipschitz, or nearly: the offset is in their units.

    Args:
        floor, box: as for `EMMA`.
        offset: of the label's logit.
        temperature: T, > 0.
        exponent: beta, 0 or at least 1.

    Raises:
        ValueError: for options out of range.

    Source: Lai et al. 2025, "Enhancing certified robustness via block reflector orthogonal layers and logit annealing
    loss", and its code, which raises logits as EMMA does.
    """

    name = "la"

    def __init__(
        self,
        floor: float = 0.01,
        offset: float = 2.0,
        temperature: float = 0.75,
        exponent: float = 5.0,
        box: bool = True,
    ) -> None:
        super().__init__(floor, box)
        self.offset = check_number("offset", offset, least=0)
        self.temperature = check_number("temperature", temperature, above=0)
        self.exponent = check_number("exponent", exponent, least=0)
        if 0 < self.exponent < 1:
            raise ValueError(
                f"Expected `method.exponent` 0 or at least 1, where gradients are finite, got {exponent!r}."
            )

    def loss(self, raised: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of `raised` logits, (B, K), with `labels`, (B,): ()."""
        return annealed_cross_entropy(raised, labels, self.offset, self.temperature, self.exponent)


def crm_penalty(radii: Tensor, labels: Tensor, temperature: float, threshold: float) -> Tensor:
    """Return the batch's mean of log(sum over j ≠ y of exp(-t R_j)) / t, where 0 < min R_j < r0, and 0 elsewhere: ().

    Minus the penalty bounds the smallest radius from below, and meets it as t grows.

    Args:
        radii: R_j of the pair (y, j) in pixels, (B, K).
        labels: (B,).
        temperature: t.
        threshold: r0, in pixels.
    """
    others = radii.scatter(1, labels.unsqueeze(1), torch.inf)
    smallest = others.amin(dim=1)
    penalty = torch.logsumexp(-temperature * others, dim=1) / temperature
    return torch.where((smallest > 0) & (smallest < threshold), penalty, 0).mean()


class CRM:
    """Cross-entropy of clean logits, plus `weight` times the soft minimum of radii of images classified right.

    Certified radius maximisation: R_j = (z_y - z_j) / K_yj, with K_yj = ||w_j - w_y|| L. Published is the global bound
    without the box, by default by LipLT (`bound=global_liplt`). Here L may be L(x), the local one at the schedule's
    epsilon: then R_j is a lower bound of the distance to the boundary up to epsilon only, and with the box
    R_j >= epsilon says "certified".

    Args:
        weight: lambda, a pixel of radius.
        temperature: t, a pixel of radius.
        threshold: r0 in pixels; images whose radius is larger are left alone.
        box: keep the box constraint.

    Raises:
        ValueError: for options out of range.

    Source: Fazlyab et al. 2023, "Certified robustness via dynamic margin maximization and improved Lipschitz
    regularization", and its code.
    """

    name = "crm"

    def __init__(self, weight: float, temperature: float, threshold: float, box: bool = False) -> None:
        self.weight = check_number("weight", weight, above=0)
        self.temperature = check_number("temperature", temperature, above=0)
        self.threshold = check_number("threshold", threshold, above=0)
        self.box = check_switch("box", box)

    @after_warm_up
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, setting: Setting) -> Objective:
        analysis = setting.analyze(model, images, self.box)
        radii = pair_radii(margins(analysis.logits, labels), pair_slopes(analysis, labels, self.box))
        penalty = crm_penalty(radii, labels, self.temperature, self.threshold)
        loss = F.cross_entropy(analysis.logits, labels) + self.weight * penalty
        return Objective(loss + setting.sparsity(analysis), analysis)


def calibrated_width(epsilon: float, slack: float) -> float:
    """Return sigma with which a logistic distribution of that scale has all but `slack` of its mass in ±epsilon.

    sigma = 2 epsilon / (logit(1 - p/2) - logit(p/2)), in pixels.

    Args:
        epsilon: l2 radius in pixels.
        slack: p, in (0, 1).
    """
    return epsilon / math.log((2 - slack) / slack)


def cll_logits(radii: Tensor, labels: Tensor, shift: float, width: float) -> Tensor:
    """Return (shift - R_j) / sigma, (B, K); 0 for the label.

    Args:
        radii: R_j = (z_y - z_j) / K_yj in pixels, (B, K).
        labels: (B,).
        shift, width: the latter is sigma; both in pixels.
    """
    return ((shift - radii) / width).scatter(1, labels.unsqueeze(1), 0)


class CLL:
    """Calibrated Lipschitz-margin loss: cross-entropy of radii, plus `decay` times the squared Lipschitz constant.

    R_j = (z_y - z_j) / K_yj, with K_yj = ||w_j - w_y|| L held constant, so that `decay` alone keeps it small. Published
    is the global bound without the box, a constant epsilon, and the square of the one global constant; here any bound,
    `offset` times the schedule's epsilon (sigma keeps to `epsilon`), and the mean over images of max over j of K_yj².

    Args:
        epsilon: radius that sigma is calibrated to, in pixels.
        slack: p, the share of the logistic's mass beyond epsilon: larger is wider and forgives more.
        decay: lambda of the squared Lipschitz constant.
        offset: radius that makes label and class level, in epsilons; 2: published, epsilon off the label's and on the
            other classes' logits; 1 is one-sided.
        detach: hold K constant; false lets gradients shrink it.
        box: keep the box constraint.

    Raises:
        ValueError: for options out of range.

    Source: Losch et al. 2023, "Certified robust models with slack control and large Lipschitz constants", and its code.
    """

    name = "cll"

    def __init__(
        self, epsilon: float, slack: float, decay: float, offset: float = 2.0, detach: bool = True, box: bool = False
    ) -> None:
        epsilon, slack = check_number("epsilon", epsilon, above=0), check_number("slack", slack, above=0, below=1)
        self.width = calibrated_width(epsilon, slack)
        self.decay = check_number("decay", decay, least=0)
        self.offset = check_number("offset", offset, above=0)
        self.detach = check_switch("detach", detach)
        self.box = check_switch("box", box)

    @after_warm_up
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, setting: Setting) -> Objective:
        analysis = setting.analyze(model, images, self.box)
        slopes = pair_slopes(analysis, labels, self.box)
        radii = pair_radii(margins(analysis.logits, labels), slopes.detach() if self.detach else slopes)
        logits = cll_logits(radii, labels, self.offset * setting.epsilon, self.width)
        loss = F.cross_entropy(logits, labels) + self.decay * slopes.amax(dim=1).square().mean()
        return Objective(loss + setting.sparsity(analysis), analysis)
