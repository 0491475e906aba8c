"""The Lightning module: any architecture, any method, any bound; certified accuracy as its metric."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any, Self

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from lipcert.bounds import Analysis, Bound, Plan, analyze
from lipcert.certificates import Cascade, Float64Model
from lipcert.certificates.cascade import Stage
from lipcert.certificates.certificate import EXACT
from lipcert.certificates.float64 import FAILURE_PROBABILITY
from lipcert.checkpoints import Origin
from lipcert.data.batches import GlobalBatches
from lipcert.graph import compile_graph
from lipcert.importing import trainable
from lipcert.losses import Objective, Setting, Sparsity
from lipcert.losses.objective import Method
from lipcert.nn import folded
from lipcert.norms import PowerNorms, UpperNorms
from lipcert.system.schema import BoundConfig
from lipcert.training.resume.checkpoints import check_resumable
from lipcert.training.schedules import Schedule


def bound_statistics(analysis: Analysis) -> dict[str, Tensor]:
    """Return Lipschitz bounds and varying proportions of images, overall and a layer, (B,) each."""
    found = {"lipschitz/global": analysis.global_lipschitz, "lipschitz/local": analysis.lipschitz}
    for bounds in analysis.activations:
        varying = bounds.masked_norm.new_ones(1) if bounds.varying is None else bounds.varying.flatten(1).mean(dim=1)
        found |= {f"lipschitz/{bounds.name}": bounds.masked_norm, f"varying/{bounds.name}": varying}
    return {name: values.detach().expand(len(analysis.logits)) for name, values in found.items()}


class CertifiedAccuracy(MeanMetric):
    """Fraction of images whose label is proved within epsilon, by norm upper bounds in float64.

    The global bound comes first: only what it leaves of the images that are classified right costs norms an image.

    Args:
        model: the network, parametrized ones `folded`; copied once an epoch, at the first `update` after a `reset`.
        epsilon: l2 radius, in pixels of [0, 1].
        bound: which Lipschitz bound.
        steps: Lanczos steps a norm; fewer are cheaper and certify fewer images, never wrongly.
    """

    def __init__(self, model: nn.Module, epsilon: float, bound: Bound | str = Bound.LOCAL, steps: int = 25) -> None:
        super().__init__()
        self._model = [model]  # in a list: the metric must not register the network as its own submodule
        self.epsilon = epsilon
        self.bound = Bound(bound)
        self.steps = steps
        self._certifier: Cascade | None = None

    def update(self, images: Tensor, labels: Tensor) -> None:  # type: ignore[override]
        """Certify a batch: images (B, ...) in [0, 1], labels (B,)."""
        if self._certifier is None:
            network = Float64Model(
                folded(self._model[0]), UpperNorms(self.steps, failure_probability=FAILURE_PROBABILITY)
            )
            network.model.eval()  # the copy; the network keeps its mode
            bounds = dict.fromkeys((Bound.GLOBAL, self.bound))
            self._certifier = Cascade(network, [Stage(each, each, self.steps) for each in bounds], arithmetic=EXACT)
        found = self._certifier(images, labels, self.epsilon)
        super().update(found.certified & (found.margin > found.rounding))  # in float32, whatever is trained in

    def reset(self) -> None:
        """Forget all batches, and the copy of the model."""
        super().reset()
        self._certifier = None


class RobustClassifier(pl.LightningModule):
    """Wraps a network with a training method, norm estimates and certified validation.

    Args:
        model: any tree of supported layers, or a module with a `forward` of its own made of such layers.
        method: training objective.
        optimizer: makes an optimizer from parameters.
        schedule: epsilon, lambda and learning rate over the epochs of the trainer.
        image_shape: (channels, height, width).
        epsilon: l2 radius that validation certifies, in pixels of [0, 1].
        bound: the group `bound` of the configuration; the local one by default.
        sparsity: weights of the sparsity loss; none by default.
        description: what checkpoints say of the run; one that says something else is not resumed.
    """

    statistics_every = 20
    """Steps between two measurements of bounds for the logs."""

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        schedule: Schedule,
        image_shape: tuple[int, int, int],
        epsilon: float,
        bound: BoundConfig | None = None,
        sparsity: Sparsity | None = None,
        description: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.method = method
        self.make_optimizer = optimizer
        self.schedule = schedule
        self.bound = bound or BoundConfig()
        self.sparsity = sparsity or Sparsity()
        self.description = dict(description or {})
        self.norms = PowerNorms(self.bound.iterations, self.bound.precision)
        self._layers = [trainable(model, image_shape)]  # in a list: checkpoints hold each parameter once
        self.graph = compile_graph(self.layers, image_shape)
        self.plan = Plan()
        self.current_epsilon = 0.0
        self.current_mixing = 0.0
        with torch.no_grad():  # unsupported layers are refused here, and singular vectors exist to be loaded
            logits = analyze(self.graph, torch.zeros(1, *image_shape), 1.0, self.bound.name, self.norms).logits
        self.origin = Origin(tuple(image_shape), logits.shape[1])
        self.clean_accuracy = MulticlassAccuracy(logits.shape[1], average="micro")
        self.certified_accuracy = CertifiedAccuracy(self.layers, epsilon, self.bound.name)

    @property
    def layers(self) -> nn.Module:
        """The network as a tree of layers: itself, unless it has a `forward` of its own."""
        return self._layers[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        if self.layers is not self.model:  # constants of the graph follow the network to its device
            self.layers._apply(fn)
        return self

    def configure_callbacks(self) -> list[pl.Callback]:
        """Return what sets epsilon, lambda and the learning rate, keeps thresholds >= 0, and skips work."""
        from lipcert.training.callbacks import ProjectThresholds, ScheduleCallback, SkipPlan

        return [ScheduleCallback(), ProjectThresholds(), SkipPlan(self.bound.skip_every)]

    def on_fit_start(self) -> None:
        """Refuse a trainer of other epochs than the schedule's."""
        epochs = self.trainer.max_epochs
        if epochs not in (None, -1, self.schedule.epochs) and not getattr(self.trainer, "fast_dev_run", False):
            raise ValueError(
                f"The schedule is over {self.schedule.epochs} epochs, the trainer over {epochs}; give both the same: "
                f"pl.Trainer(max_epochs={self.schedule.epochs})."
            )

    def forward(self, images: Tensor) -> Tensor:
        """Return clean logits, (B, K)."""
        return self.model(images)

    def objective(self, images: Tensor, labels: Tensor, measured: bool = False) -> Objective:
        """Return the loss of a batch under the schedules' present values: images (B, ...), labels (B,).

        `measured`: make boxes for the logs even where the method needs none.
        """
        setting = Setting(
            self.current_epsilon,
            self.current_mixing,
            Bound(self.bound.name),
            self.norms,
            self.sparsity,
            self.bound.clip_input,
            self.plan,
            self.bound.box_gradients,
            self.graph,
            measured,
        )
        return self.method(self.model, images, labels, setting)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """Return this process's part of the loss: averaged over processes, it is the mean over the global batch."""
        images, labels = batch
        batches = getattr(self.trainer.train_dataloader, "sampler", None)
        held = everyones = len(labels)
        if isinstance(batches, GlobalBatches):
            held, everyones = batches.share(batch_index)
        measured = batch_index % self.statistics_every == 0
        objective = self.objective(images, labels, measured)
        loss = objective.loss
        self.log("train/loss", loss.detach(), on_step=False, on_epoch=True, batch_size=held, sync_dist=True)
        if measured:
            self._log_bounds(objective.analysis, images, held)
        return loss if held == everyones else loss * (held / everyones)

    @torch.no_grad()
    def _log_bounds(self, analysis: Analysis | None, images: Tensor, weight: int) -> None:
        """Log the curves of Figures 6 and 7; methods that need none are measured at the target epsilon.

        Lightning divides the `weight` in means over processes by their number in integers: it is a multiple of it.
        """
        if analysis is None:
            epsilon = self.schedule.epsilon_train
            analysis = analyze(self.graph, images, epsilon, Bound.LOCAL, self.norms, self.bound.clip_input)
        statistics = {name: values.mean() for name, values in bound_statistics(analysis).items()}
        self.log_dict(statistics, on_step=False, on_epoch=True, batch_size=weight, sync_dist=True)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        images, labels = batch
        if len(labels):  # a last batch may have fewer images than there are processes
            self.clean_accuracy.update(self.model(images), labels)
            self.certified_accuracy.update(images, labels)
        self.log("val/clean_accuracy", self.clean_accuracy, on_epoch=True, prog_bar=True)
        self.log("val/certified_accuracy", self.certified_accuracy, on_epoch=True, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make_optimizer(self.model.parameters())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["lipcert"] = self.description
        checkpoint["network"] = asdict(self.origin)
        checkpoint["grams"] = self.norms.grams.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another architecture with a sentence; take over the Gram matrices."""
        check_resumable(checkpoint, self.description)
        self.norms.grams.load(checkpoint.get("grams", {}))
