"""l2 projected gradient descent, by foolbox: at one radius, or at growing ones, for what is broken stays broken."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from lipcert.attacks.ball import PIXELS, Box, contained
from lipcert.attacks.target import check_attackable, margins, without_gradients, withstanding
from lipcert.norms.krylov import per_image


def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    steps: int = 100,
    restarts: int = 1,
    box: Box = PIXELS,
) -> Tensor:
    """Return for each image the point of smallest margin at which a projected gradient descent ended, (N, ...).

    Steps of epsilon/4 on the cross-entropy from random starts; the library is foolbox.

    Args:
        model: in eval mode, on the device of `images`.
        images: (N, ...), pixels in `box`; labels: (N,).
        epsilon: l2 radius.
        steps: gradient steps.
        restarts: descents, each from a start of its own.
        box: pixels allowed.

    Raises:
        ValueError: for epsilon out of range, pixels outside of the box or a model in train mode.
    """
    from foolbox.attacks import L2ProjectedGradientDescentAttack  # type: ignore[attr-defined]
    from foolbox.models import PyTorchModel  # type: ignore[attr-defined]

    check_attackable(model, images, epsilon, box)
    target = PyTorchModel(model, bounds=box, device=images.device)
    attack = L2ProjectedGradientDescentAttack(abs_stepsize=epsilon / 4, steps=steps, random_start=True)
    best, smallest = images, torch.full((len(images),), torch.inf, dtype=torch.float64, device=images.device)
    with without_gradients(model):
        for _ in range(restarts if len(images) else 0):
            _, found, _ = attack(target, images, labels, epsilons=epsilon)
            found = contained(found, images, epsilon, box)
            reached = margins(model, found, labels)
            best = torch.where(per_image(reached < smallest, images.dim()), found, best)
            smallest = torch.minimum(reached, smallest)
    return best


def pgd_robust(
    model: nn.Module, images: Tensor, labels: Tensor, epsilon: float, steps: int = 100, restarts: int = 1
) -> Tensor:
    """Return which images are classified correctly, and still after `pgd` inside the ball and [0, 1], (N,) bool.

    Arguments as in `pgd`.
    """
    return withstanding(model, images, labels, epsilon, [partial(pgd, steps=steps, restarts=restarts)])


def attack_at_growing_radii(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    radii: Sequence[float],
    epsilon: float,
    steps: int,
    restarts: int,
    batch_size: int,
    seed: int,
    advance: Callable[[], object] = lambda: None,
) -> tuple[Tensor, Tensor]:
    """Attack every image at every radius that it has withstood so far, the smallest first.

    Returns, (N,) each on the CPU: the smallest of the radii at which an image left its label, 0 where the clean
    prediction is wrong, infinity where it withstood all; the class at the point that broke it within epsilon, else the
    clean one.

    Args:
        model, images, labels, steps, restarts: as in `pgd`.
        radii: l2, the smallest first.
        epsilon: predictions are those within it.
        batch_size: images attacked at a time.
        seed: of random starts.
        advance: called after each radius.
    """
    with torch.no_grad():
        prediction = torch.cat([model(batch).argmax(dim=1) for batch in images.split(batch_size)])
    broken_at = torch.where(prediction == labels, torch.inf, 0.0).double()
    with torch.random.fork_rng([images.device] if images.is_cuda else []):
        torch.manual_seed(seed)
        for radius in radii:
            for rows in broken_at.isinf().nonzero()[:, 0].split(batch_size):
                points = pgd(model, images[rows], labels[rows], radius, steps, restarts)
                with torch.no_grad():
                    reached = model(points).argmax(dim=1)
                broken = reached != labels[rows]
                broken_at[rows[broken]] = radius
                if radius <= epsilon:
                    prediction[rows] = reached
            advance()
    return broken_at.cpu(), prediction.cpu()


def refutations(broken_at: Tensor, radius: Tensor) -> list[str]:
    """Return a sentence for each image, (N,), that was broken within its certified radius."""
    return [
        f"image {row} is certified within {radius[row].item():.6g}, and PGD changes its prediction "
        f"within {broken_at[row].item():.6g}"
        for row in ((radius > 0) & (broken_at <= radius)).nonzero()[:, 0].tolist()
    ]
