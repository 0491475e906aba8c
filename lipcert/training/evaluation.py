"""Clean, attacked and certified accuracy of a trained network, the images split over processes."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lipcert.attacks import auto_attack_robust, pgd_robust
from lipcert.bounds import RULES, Bound
from lipcert.certificates import Certifier, Float64Model, certify_batches
from lipcert.certificates.batch_size import within_memory
from lipcert.certificates.certificate import EXACT
from lipcert.certificates.float64 import FAILURE_PROBABILITY
from lipcert.data import Split
from lipcert.nn import folded
from lipcert.norms import UpperNorms
from lipcert.system.errors import refuse_below
from lipcert.system.execution import cover_execution, refuse_execution
from lipcert.system.progress import progress
from lipcert.system.schema import EvaluationConfig
from lipcert.training.estimate import announce, estimated_seconds
from lipcert.training.module import bound_statistics
from lipcert.training.processes import from_every_process, ranks

MEANS_STEPS = 40
"""Most Lanczos steps of a norm an image where Lipschitz bounds are averaged."""

TIMED = 8
"""Images whose forward pass is timed before an evaluation, to tell how long it takes."""

Columns = dict[str, Tensor]
"""What is found of each image, (N,) by name; a name may cover only the first images."""


def joined(parts: Sequence[Columns]) -> Columns:
    """Return the columns of all parts in float64, one behind the other; a part may lack some."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: torch.cat([part[name] for part in parts if name in part]).double() for name in names}


@dataclass
class EvaluationSettings(EvaluationConfig):
    """How a trained network is evaluated: the settings under `evaluation`, and the seed of the attack's random starts.

    Raises:
        ValueError: for settings out of range.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        for bound in self.bounds:
            Bound(bound)
        if self.checkpoint not in ("last", "best"):
            raise ValueError(f"Expected `evaluation.checkpoint` to be last or best, got {self.checkpoint!r}.")
        least = {1: ("batch_size", "lanczos_steps", "lipschitz_images"), 0: ("pgd_steps", "autoattack_images")}
        for smallest, names in least.items():
            refuse_below(smallest, {f"evaluation.{name}": getattr(self, name) for name in names})


def certified_columns(
    network: Float64Model, split: Split, epsilon: float, bounds: Sequence[str], settings: EvaluationSettings
) -> Columns:
    """Certify with the global bound first; the others see only what it left undecided.

    `local` and `tight` certify whatever `global` does (Theorem 1); for `linear_split`, which need not, the flags are
    those of it and `global` together. No bound certifies a wrong prediction.

    Returns:
        `certified/BOUND`, of the exact network, as in the literature, and `executed/BOUND`, of the network in the
        precision of its weights, rounding included.
    """

    def certify(bound: str, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        certifier = Certifier(network, bound, settings.lanczos_steps, settings.clip_input, EXACT)
        images, labels = split[rows]
        found = within_memory(
            lambda size: certify_batches(certifier, images, labels, epsilon, size), settings.batch_size
        )
        return found.certified, found.certified & (found.margin > found.rounding), found.correct(labels)

    columns: Columns = {}
    with progress("certify by bounds", len(bounds), shown=ranks()[0] == 0) as advance:
        first, first_executed, correct = certify("global", torch.arange(len(split)))
        undecided = (correct & ~first).nonzero()[:, 0]
        for bound in bounds:
            certified, executed = first.clone(), first_executed.clone()
            if bound != "global" and len(undecided):
                certified[undecided], executed[undecided], _ = certify(bound, undecided)
            columns |= {f"certified/{bound}": certified, f"executed/{bound}": executed}
            advance()
    return columns


def attacked_columns(
    model: nn.Module, chunk: Sequence[Tensor], epsilon: float, settings: EvaluationSettings, first: int
) -> Columns:
    """Return which images of a chunk are classified correctly, which withstand PGD, and which AutoAttack as well.

    A chunk is images (B, ...), labels (B,), and which are certified as executed, (B,): nothing can break these, so
    AutoAttack is spared them, and what PGD has broken. `first`, the chunk's first image's index, decides the random
    starts, whatever the number of processes.
    """
    images, labels, certified = chunk
    with torch.no_grad():
        robust = model(images).argmax(dim=1) == labels
    columns = {"clean": robust}
    if settings.pgd_steps:
        with torch.random.fork_rng([images.device] if images.is_cuda else []):
            torch.manual_seed(settings.seed * 1_000_003 + first)
            robust = pgd_robust(model, images, labels, epsilon, settings.pgd_steps)
        columns["robust"] = robust
    few = settings.autoattack_images - first
    if few > 0:
        withstood = robust[:few].clone()
        rows = (withstood & ~certified[:few]).nonzero()[:, 0]
        if len(rows):
            withstood[rows] = auto_attack_robust(model, images[rows], labels[rows], epsilon, seed=settings.seed)
        columns["withstood"] = withstood
    return columns


def attacked_parts(
    model: nn.Module, chunk: Sequence[Tensor], epsilon: float, settings: EvaluationSettings, first: int, size: int
) -> list[Columns]:
    """Return the `attacked_columns` of a chunk, `size` images at a time."""
    parts = zip(*(each.split(size) for each in chunk), strict=True)
    return [attacked_columns(model, part, epsilon, settings, first + index * size) for index, part in enumerate(parts)]


@torch.no_grad()
def lipschitz_columns(
    network: Float64Model, images: Tensor, epsilon: float, bound: Bound, settings: EvaluationSettings
) -> Columns:
    """Return Lipschitz bounds up to the last activation and, of each layer, the proportion of varying neurons.

    `local` stands in for bounds without masks.
    """
    masked = bound if RULES[bound].masks else Bound.LOCAL
    steps = min(MEANS_STEPS, settings.lanczos_steps)

    def averaged(size: int) -> list[Columns]:
        return [bound_statistics(network.analyze(batch, epsilon, masked, steps)) for batch in images.split(size)]

    return joined(within_memory(averaged, settings.batch_size))


def evaluated_columns(
    model: nn.Module, split: Split, epsilon: float, bounds: Sequence[str], settings: EvaluationSettings
) -> Columns:
    """Return what this process finds: it takes every so many-th chunk of `settings.batch_size` images."""
    rank, processes = ranks()
    size = settings.batch_size
    chunks = torch.arange(len(split)).split(size)[rank::processes]
    if not chunks:
        return {}
    rows = torch.cat(chunks)
    own = split.rows(rows.tolist())
    images, labels = own[:]
    network = Float64Model(model, UpperNorms(settings.lanczos_steps, failure_probability=FAILURE_PROBABILITY))
    if rank == 0:
        announce(estimated_seconds(model, network, images[:TIMED], len(own), bounds, settings), len(own))
    columns = certified_columns(network, own, epsilon, bounds, settings)
    decided = torch.stack([columns[f"executed/{bound}"] for bound in bounds]).any(dim=0)
    attacked = []
    with progress("attack batches", len(chunks), shown=rank == 0) as advance:
        for numbers, *chunk in zip(chunks, images.split(size), labels.split(size), decided.split(size), strict=True):
            attacked += within_memory(partial(attacked_parts, model, chunk, epsilon, settings, int(numbers[0])), size)
            advance()
    columns |= joined(attacked)
    averaged = images[rows < settings.lipschitz_images]
    if len(averaged):
        columns |= lipschitz_columns(network, averaged, epsilon, Bound(bounds[0]), settings)
    columns["failure_probability"] = torch.tensor([network.norms.union_failure_probability], dtype=torch.float64)
    return {name: column.cpu() for name, column in columns.items()}


def evaluate(
    model: nn.Module, split: Split, epsilon: float, bound: Bound, settings: EvaluationSettings
) -> dict[str, Any]:
    """Return the evaluated part of `results.json`, with one certified accuracy for each bound.

    Every process of a run calls it, takes a part of the images and gets what all have found; everything is computed on
    the device of the images, which is the model's, with fewer images at a time where its memory does not suffice.
    Meanwhile torch's switches are set so that bounds cover what is executed.

    `certified_accuracy` is that of `bound`, of the exact network as in the literature; `certified_accuracy_executed`
    that of the network in the precision of its weights. All hold together with probability 1 - `failure_probability`.
    A parametrized network is evaluated as `folded`, as commands load it from its checkpoint.

    Raises:
        ValueError: as in `refuse_execution`, for what is no switch: autocast, the environment, modes.
    """
    model = folded(model.eval())
    bounds = list(dict.fromkeys((str(bound), *settings.bounds)))
    device = split.images.device
    with cover_execution(device):
        refuse_execution(set(map(type, model.modules())), device)
        columns = joined(from_every_process(lambda: evaluated_columns(model, split, epsilon, bounds, settings)))
    means = {name: statistics.mean(column.tolist()) for name, column in columns.items()}
    return {
        "num_test": len(columns["clean"]),
        "clean_accuracy": means["clean"],
        "pgd_accuracy": means.get("robust"),
        "autoattack_accuracy": means.get("withstood"),
        "autoattack_images": len(columns["withstood"]) if "withstood" in columns else None,
        "certified_accuracy": means[f"certified/{bound}"],
        "certified_accuracy_executed": means[f"executed/{bound}"],
        "certified_accuracy_by_bound": {name: means[f"certified/{name}"] for name in bounds},
        "failure_probability": columns["failure_probability"].sum().item(),
        "global_lipschitz": columns["lipschitz/global"].min().item(),
        "local_lipschitz_mean": means["lipschitz/local"],
        "lipschitz_images": len(columns["lipschitz/local"]),
        "varying_fraction": {
            name.removeprefix("varying/"): mean for name, mean in means.items() if name.startswith("varying/")
        },
    }
