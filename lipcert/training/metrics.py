"""Metrics that sum over batches and processes."""

from __future__ import annotations

from torch import Tensor, nn
from torchmetrics import MeanMetric

from lipcert.bounds import Bound
from lipcert.certificates import Certifier, Float64Model
from lipcert.certificates.float64 import FAILURE_PROBABILITY
from lipcert.nn import folded
from lipcert.norms import UpperNorms


class CertifiedAccuracy(MeanMetric):
    """Fraction of images whose label is proved within epsilon, by norm upper bounds in float64.

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
        self._certifier: Certifier | None = None

    def update(self, images: Tensor, labels: Tensor) -> None:  # type: ignore[override]
        """Certify a batch: images (B, ...) in [0, 1], labels (B,)."""
        if self._certifier is None:
            norms = UpperNorms(self.steps, failure_probability=FAILURE_PROBABILITY)
            network = Float64Model(folded(self._model[0]), norms)
            network.model.eval()  # the copy; the network keeps its mode
            self._certifier = Certifier(network, self.bound, self.steps)
        super().update(self._certifier(images, labels, self.epsilon).certified)

    def reset(self) -> None:
        """Forget all batches, and the copy of the model."""
        super().reset()
        self._certifier = None
