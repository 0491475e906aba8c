"""Lipschitz bounds of a model's map from images to logits."""

import torch
from torch import Tensor, nn

from lipcert.bounds import Arithmetic, Bound, check_epsilon, lipschitz_to_logits
from lipcert.certificates.certifier import check_images, check_tensor
from lipcert.certificates.certify import followed
from lipcert.certificates.float64 import Float64Model

FLOAT64 = Arithmetic.of(torch.float64, torch.float64)
"""Boxes are wide enough for the float64 arithmetic that finds them."""

LANCZOS_STEPS = 40
"""Within 4 % of the exact norm on masked convolutions."""


@torch.no_grad()
def local_lipschitz(
    model: nn.Module, images: Tensor, epsilon: float | Tensor, bound: Bound | str = Bound.TIGHT, batch_size: int = 100
) -> Tensor:
    """Return upper bounds on ‖f(x') - f(x)‖ / ‖x' - x‖ for ‖x' - x‖ <= epsilon, one an image, (N,) float64.

    The last layer, masked by its varying inputs, is included (appendix A.1).

    Args:
        model: as for `certify`.
        images: (N, ...), float; any real values, pixels in [0, 1] for images.
        epsilon: l2 radius, > 0, one number or (N,).
        bound: any of `Bound`, `linear_split` (appendix A.2) among them.
        batch_size: images bounded at a time.

    Raises:
        ValueError: for epsilon out of range.
        UnsupportedLayerError: naming a layer without a sound rule.

    Source: Theorem 1, appendix A.
    """
    check_tensor("images", images)
    check_epsilon(epsilon, len(images))
    network = Float64Model(followed(model, images))
    radii = torch.as_tensor(epsilon, dtype=torch.float64).expand(len(images))
    bounds = []
    for batch, radius in zip(images.split(batch_size), radii.split(batch_size), strict=True):
        analysis = network.analyze(batch, radius, bound, LANCZOS_STEPS, arithmetic=FLOAT64)
        constants = lipschitz_to_logits(analysis, network.norms).nan_to_num(torch.inf, torch.inf)
        bounds.append(constants.expand(len(batch)))
    return torch.cat(bounds)


def global_lipschitz(model: nn.Module, image_shape: tuple[int, ...]) -> float:
    """Return an upper bound on the Lipschitz constant of the map to the logits for all images: the product of norms.

    Args:
        model: as for `certify`.
        image_shape: shape of one image, without the batch.

    Raises:
        UnsupportedLayerError: naming a layer without a sound rule.
        TypeError: for images in place of their shape.
    """
    if isinstance(image_shape, Tensor):
        raise TypeError("Expected `image_shape`, (C, H, W) for example, got a tensor; give images.shape[1:].")
    black = torch.zeros(1, *image_shape)
    check_images(black)
    return local_lipschitz(model, black, 1.0, Bound.GLOBAL).item()
