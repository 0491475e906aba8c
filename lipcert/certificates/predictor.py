"""A network that says with each class how far around the image it is proved, in one forward pass."""

import copy
import math
from typing import NamedTuple, Self

import torch
from torch import Tensor, library, nn

from lipcert.bounds import Arithmetic, Bound, check_epsilon, logit_rounding, worst_increase
from lipcert.certificates.certifier import FLUSHED, check_logits
from lipcert.certificates.certify import certified_radius, followed
from lipcert.certificates.float64 import FAILURE_PROBABILITY, SLACK, Float64Model
from lipcert.nn import folded
from lipcert.norms import UpperNorms
from lipcert.system.execution import refuse_execution

IMAGE_FREE = (Bound.GLOBAL, Bound.GLOBAL_LIPLT)
"""Bounds that are the same for all images."""

GREY = 0.5
"""Of all pixels of the image around which images lie."""

LAYERS = (nn.Conv2d, nn.Linear)
"""Layers whose precision is looked at; all others compute in float32 whatever the switches."""


class Prediction(NamedTuple):
    """What is said of each image, (B,) each.

    Args:
        label: its class.
        radius: in l2, float64, within which the executed network keeps that class; 0 where nothing is proved.
        certified: whether that reaches the predictor's `epsilon`.
    """

    label: Tensor
    radius: Tensor
    certified: Tensor


@library.custom_op("lipcert::covered", mutates_args=())
def _covered(images: Tensor) -> Tensor:
    """Return 1 where bounds cover how torch computes now, each time that a compiled graph is executed.

    Raises:
        ValueError: as in `refuse_execution`.
    """
    refuse_execution(LAYERS, images.device)
    return torch.ones((), dtype=torch.float64, device=images.device)


@_covered.register_fake
def _(images: Tensor) -> Tensor:
    return images.new_empty((), dtype=torch.float64)


class CertifiedPredictor(nn.Module):
    """A copy of a network, in eval mode, that returns a `Prediction` of each image.

    The radius is the least of (z_c - z_j - offset) / slope over all other classes j: the slope is a global Lipschitz
    constant of z_c - z_j, and the offset covers the rounding of this difference at the image and at any point within
    `largest` of an image. It holds for the network as executed, compiled by `torch.compile` or not.

    Args:
        model: as for `lipcert.certify`; parametrized weights are stored as numbers.
        image_shape: of one image, without the batch.
        epsilon: the radius from which on a prediction counts as certified; None for any above 0.
        bound: `global` or `global_liplt`.
        largest: radii are not told beyond it.
        failure_probability: of each norm; `failure_probability` of the predictor is the union bound.

    Raises:
        ValueError: for another bound or numbers out of range; as in `lipcert.certify`.
        UnsupportedLayerError: naming a layer without a sound rule.
    """

    def __init__(
        self,
        model: nn.Module,
        image_shape: tuple[int, ...],
        epsilon: float | None = None,
        bound: Bound | str = Bound.GLOBAL,
        largest: float = 10.0,
        failure_probability: float = FAILURE_PROBABILITY,
    ) -> None:
        super().__init__()
        check_epsilon(largest, name="largest")
        if epsilon is not None:
            check_epsilon(epsilon)
        if Bound(bound) not in IMAGE_FREE:
            raise ValueError(f"Expected `bound` to be {' or '.join(IMAGE_FREE)}, got {bound!r}; `tighter` takes any.")
        self.image_shape, self.epsilon, self.largest = tuple(image_shape), epsilon, float(largest)
        device = next((each.device for each in model.parameters()), torch.device("cpu"))
        grey = torch.full((1, *image_shape), GREY, device=device)
        self.model = copy.deepcopy(followed(folded(model), grey)).eval().requires_grad_(False)
        network = Float64Model(self.model, UpperNorms(failure_probability=failure_probability))
        self.dtype = network.dtype
        self.corner = math.sqrt(grey.numel()) / 2 * (1 + grey.numel() * torch.finfo(self.dtype).eps)
        slopes, offsets = _constants(network, grey, self.corner, self.largest, bound)
        self.slopes: Tensor
        self.offsets: Tensor
        self.register_buffer("slopes", slopes)
        self.register_buffer("offsets", offsets)
        self.failure_probability = network.norms.union_failure_probability

    @torch.no_grad()
    def forward(self, images: Tensor) -> Prediction:
        """Return what is proved of images (B, *image_shape), pixels in [0, 1].

        Raises:
            ValueError: for images of another shape or another type than the weights, or switches of torch that no bound
                covers.
        """
        logits = self.model(images)
        if not images.dtype == logits.dtype == self.dtype or images.shape[1:] != self.image_shape:
            shape = f"(B, {', '.join(map(str, self.image_shape))})"
            raise ValueError(f"Expected images {shape} in {self.dtype}, got {tuple(images.shape)} in {images.dtype}.")
        values = logits.double()
        top = values.max(dim=1, keepdim=True)
        label = top.indices[:, 0]
        reach = ((top.values - values - self.offsets[label]) / self.slopes[label]).amin(dim=1)
        distance = torch.linalg.vector_norm(images - GREY, dim=tuple(range(1, images.dim())))
        proved = (reach > 0) & (distance <= self.corner)  # false for NaN
        if torch.compiler.is_compiling():
            reach = reach * _covered(images)
        else:
            refuse_execution(LAYERS, images.device)
        return self._said(label, torch.where(proved, reach, 0))

    def _said(self, label: Tensor, radius: Tensor) -> Prediction:
        return Prediction(label, radius, radius > 0 if self.epsilon is None else radius >= self.epsilon)

    def tighter(self, images: Tensor, bound: Bound | str | None = None, rounds: int = 20) -> Prediction:
        """Return the same with radii that `lipcert.certified_radius` proves.

        Args:
            images, bound, rounds: as in `lipcert.certified_radius`; the cascade where `bound` is None.
        """
        label, radius, _ = self(images)
        found = certified_radius(self.model, images, label, bound, self.largest, rounds)
        return self._said(label, torch.maximum(radius, found.to(radius)))

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the predictor; its network stays in eval mode."""
        super().train(mode)
        self.model.eval()
        return self


def _constants(
    network: Float64Model, grey: Tensor, corner: float, largest: float, bound: Bound | str
) -> tuple[Tensor, Tensor]:
    """Return slopes and offsets, (K, K) each, of all points within `corner` + `largest` of the grey image.

    The offsets of a class to itself let the least radius be `largest` at most.
    """
    precision, size = torch.finfo(network.dtype), math.sqrt(grey.numel())
    arithmetic, ball = Arithmetic.of(network.dtype, network.dtype), 2 * corner + largest
    analysis = network.analyze(grey, ball, bound, arithmetic=arithmetic, executed=True)
    check_logits(analysis.logits)
    classes = torch.arange(analysis.logits.shape[1], device=grey.device).split(1)
    slopes = torch.cat([worst_increase(analysis, each, box=False) for each in classes]) / ball * (1 + 3 * SLACK)
    rounding = torch.cat([logit_rounding(analysis, each) for each in classes]) * (1 + SLACK)
    conversion = precision.eps / 2 * ball + precision.tiny * size
    offsets = 2 * (rounding + FLUSHED * arithmetic.tiny) + conversion * slopes
    return slopes.fill_diagonal_(1.0), offsets.fill_diagonal_(-largest)
