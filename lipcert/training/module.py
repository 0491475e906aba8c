"""The Lightning module: any architecture, any method, any bound."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from lipcert.bounds import Analysis, Bound, Economy, PowerNorms, WarmStart, analyze
from lipcert.bounds.warm_start import MapsMet
from lipcert.data.batches import GlobalBatches, Share
from lipcert.losses import Objective, Setting, Sparsity
from lipcert.losses.objective import Method
from lipcert.training.metrics import CertifiedAccuracy
from lipcert.training.schedules import Schedule


def bound_statistics(analysis: Analysis) -> dict[str, Tensor]:
    """Return Lipschitz bounds and varying proportions, overall and a layer: the curves of Figures 6 and 7."""
    masked = [bounds.masked_norm.detach().mean() for bounds in analysis.activations]
    statistics = {
        "lipschitz/global": analysis.global_lipschitz.detach().mean(),
        "lipschitz/local": analysis.lipschitz.detach().mean(),
    }
    for bounds, norm in zip(analysis.activations, masked, strict=True):
        statistics[f"lipschitz/{bounds.name}"] = norm
        varying = torch.ones(()) if bounds.varying is None else bounds.varying.detach().mean()
        statistics[f"varying/{bounds.name}"] = varying
    return statistics


def check_description(saved: object, expected: dict[str, Any]) -> None:
    """Raise ValueError unless a checkpoint describes the same data, model and activation."""
    if saved != expected:
        raise ValueError(f"The checkpoint holds {saved}, but this run trains {expected}.")


class RobustClassifier(pl.LightningModule):
    """Wraps a network with a training method, norm estimates and certified validation.

    Args:
        model: any tree of supported layers.
        method: training objective.
        optimizer: makes an optimizer from parameters.
        schedule: epsilon, lambda and learning rate over epochs; applied by `ScheduleCallback`.
        image_shape: (channels, height, width).
        num_classes: number of logits.
        epsilon: l2 radius that validation certifies, in pixels of [0, 1].
        bound: Lipschitz bound of the loss and of validation.
        iterations: power steps of each norm estimate.
        precision: of the power steps, see `PowerNorms`.
        warm_start: what training images keep for the norm estimates to start from; nothing when None.
        sparsity: weights of the sparsity loss.
        clip_input: whether the adversary is confined to pixels in [0, 1] while training.
        economy: steps between two measurements of which box passes and masked norms pay; 0 for all at every step.
        statistics_every: steps between two measurements of bounds for the logs.
        description: what a checkpoint says of itself (model, data, ...).
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        schedule: Schedule,
        image_shape: tuple[int, int, int],
        num_classes: int,
        epsilon: float,
        bound: Bound | str = Bound.LOCAL,
        iterations: int = 2,
        precision: str = "auto",
        sparsity: Sparsity | None = None,
        clip_input: bool = False,
        economy: int = 0,
        statistics_every: int = 20,
        description: dict[str, Any] | None = None,
        warm_start: WarmStart | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.method = method
        self.make_optimizer = optimizer
        self.schedule = schedule
        self.bound = Bound(bound)
        self.norms = PowerNorms(iterations, precision, warm_start)
        self.sparsity = Sparsity() if sparsity is None else sparsity
        self.clip_input = clip_input
        self.economy = Economy(economy) if economy else None
        self.statistics_every = statistics_every
        self.description = description or {}
        self.current_epsilon = 0.0
        self.current_mixing = 0.0
        self.clean_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.certified_accuracy = CertifiedAccuracy(model, epsilon, bound)
        self._find_singular_vectors(image_shape)

    @torch.no_grad()
    def _find_singular_vectors(self, image_shape: tuple[int, int, int]) -> None:
        """Walk the model once, so that unsupported layers are refused and singular vectors exist to be loaded."""
        met = MapsMet(self.norms)
        analyze(self.model, torch.zeros(1, *image_shape), 1.0, self.bound, met)
        self.norms.warm_start.reserve(met.maps)

    def forward(self, images: Tensor) -> Tensor:
        """Return clean logits, (B, K)."""
        return self.model(images)

    def objective(self, images: Tensor, labels: Tensor, numbers: Tensor | None = None) -> Objective:
        """Return the loss of a batch under the schedules' present values; `numbers`: (B,), of the training images."""
        setting = Setting(
            self.current_epsilon,
            self.current_mixing,
            self.bound,
            self.norms.of(numbers),
            self.sparsity,
            self.clip_input,
            self.economy,
        )
        return self.method(self.model, images, labels, setting)

    def training_step(self, batch: tuple[Tensor, ...], batch_index: int) -> Tensor:
        """Return this process's part of the loss: averaged over processes, it is the mean over the global batch.

        `batch`: images, labels and numbers of the images; the numbers may be missing for `shared`.
        """
        images, labels, *rest = batch
        if self.norms.warm_start.kept and not rest:
            raise ValueError(
                f"warm_start={self.norms.warm_start.name} needs training batches (images, labels, numbers of the "
                "images), got (images, labels); let the data loader add them, or set warm_start=shared."
            )
        share = self.share(batch_index)
        objective = self.objective(images, labels, *rest)
        loss = objective.loss
        self.log("train/loss", loss.detach(), on_step=False, on_epoch=True, batch_size=share.log_weight, sync_dist=True)
        if batch_index % self.statistics_every == 0:
            self._log_bounds(objective.analysis, images, share)
        return loss if share.ranks == 1 else loss * share.weight

    def share(self, batch_index: int) -> Share:
        """Return how much of a training batch this process holds, as the data module splits it."""
        batches = getattr(self.trainer.train_dataloader, "sampler", None)
        if not isinstance(batches, GlobalBatches):
            raise TypeError(f"Expected batches split by GlobalBatches, got {type(batches).__name__}.")
        return batches.share(batch_index)

    @torch.no_grad()
    def _log_bounds(self, analysis: Analysis | None, images: Tensor, share: Share) -> None:
        """Log what the bound sees; methods that need none are measured at the target epsilon."""
        if analysis is None:
            epsilon = self.schedule.epsilon_train
            analysis = analyze(self.model, images, epsilon, Bound.LOCAL, self.norms, self.clip_input)
        statistics = bound_statistics(analysis)
        self.log_dict(statistics, on_step=False, on_epoch=True, batch_size=share.log_weight, sync_dist=True)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        images, labels = batch
        if len(labels):  # a last batch may have fewer images than there are processes
            self.clean_accuracy.update(self.model(images), labels)
            self.certified_accuracy.update(images, labels)
        self.log("val/clean_accuracy", self.clean_accuracy, on_epoch=True, prog_bar=True)
        self.log("val/certified_accuracy", self.certified_accuracy, on_epoch=True, prog_bar=True)

    def on_train_epoch_end(self) -> None:
        """Give every process the vectors that the others found for the images they saw."""
        trainer = self.trainer
        if trainer.world_size > 1:
            self.norms.warm_start.merge(self._sum_over_ranks, trainer.global_rank, trainer.world_size)

    def _sum_over_ranks(self, values: Tensor) -> Tensor:
        summed = self.trainer.strategy.reduce(values.to(self.device), reduce_op="sum")
        return summed if isinstance(summed, Tensor) else torch.as_tensor(summed)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make_optimizer(self.model.parameters())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["lipcert"] = self.description
        checkpoint["economy"] = {} if self.economy is None else self.economy.state_dict()
        checkpoint["warm_start"] = self.norms.warm_start.state()
        checkpoint["grams"] = self.norms.grams.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another architecture with a sentence; take over what pays."""
        check_description(checkpoint.get("lipcert"), self.description)
        if self.economy is not None:
            self.economy.load_state_dict(checkpoint.get("economy", {}))
        self.norms.warm_start.load(checkpoint.get("warm_start"))
        self.norms.grams.load(checkpoint.get("grams", {}))
