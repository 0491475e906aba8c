"""A training step never makes a GPU wait for the host: checked without one, on tensors that only pretend to be there.

A fake CUDA tensor has a shape and a device but no values: whoever asks for a value fails. Its backward pass needs the
driver, so that half is watched on the CPU for the operations that ask for values.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from lipcert.bounds import Bound, Plan
from lipcert.data.module import crop_and_flip, draw
from lipcert.losses import BCP, CLL, CRM, EMMA, GloRo, Setting, Sparsity
from lipcert.losses.objective import Method
from lipcert.nn import build
from lipcert.norms import PowerNorms
from tests.waiting import Watch

SHAPE, CLASSES = (1, 8, 8), 10


def _setting(bound: str, plan: Plan | None = None) -> Setting:
    gradients = plan is None
    return Setting(
        0.3, 0.5, Bound(bound), PowerNorms(2, "float32"), Sparsity(0.1), plan=plan or Plan(), box_gradients=gradients
    )


METHODS: dict[str, Callable[[], Method]] = {
    "bcp": BCP,
    "gloro_published": lambda: GloRo(exclude="prediction", box=False),
    "crm": lambda: CRM(1.0, 5.0, 1.0),
    "cll": lambda: CLL(0.3, 0.1, 0.01),
    "emma": EMMA,
}


@pytest.mark.parametrize(
    ("name", "bound", "activation"),
    [
        *(
            ("bcp", bound, kind)
            for bound in ("global", "local", "tight")
            for kind in ("clipped_relu", "clipped_maxmin")
        ),
        *((name, "local", "clipped_relu") for name in METHODS if name != "bcp"),
    ],
)
def test_forward_pass_and_loss(name: str, bound: str, activation: str) -> None:
    with FakeTensorMode(), torch.device("cuda"):
        model, setting = build("small", SHAPE, CLASSES, activation), _setting(bound)
        images, labels = torch.rand(4, *SHAPE), torch.randint(CLASSES, (4,))
    with images.fake_mode, Watch() as watch:  # type: ignore[attr-defined]
        objective = METHODS[name]()(model, images, labels, setting)
    assert objective.loss.device.type == "cuda"
    assert watch.noted == []


@pytest.mark.parametrize("bound", ["global", "local", "tight"])
def test_backward_pass_with_a_plan(bound: str) -> None:
    """Between two measurements of what to skip; a measurement itself asks for its numbers."""
    model, setting = (
        build("small", SHAPE, CLASSES, "clipped_relu"),
        _setting(bound, Plan(boxes=frozenset("2"), masks=frozenset("1"))),
    )
    images, labels = torch.rand(4, *SHAPE), torch.randint(CLASSES, (4,))
    BCP()(model, images, labels, setting)
    with Watch() as watch:
        BCP()(model, images, labels, setting).loss.backward()
    assert watch.noted == []


def test_augmentation() -> None:
    with FakeTensorMode() as mode:
        images = torch.rand(4, *SHAPE, device="cuda")
    with mode, Watch() as watch:
        assert crop_and_flip(images, 2, draw(4, 2, None)).device.type == "cuda"
    assert watch.noted == []


def test_the_watch_sees_what_waits() -> None:
    with FakeTensorMode() as mode:
        images = torch.rand(4, device="cuda")
    with mode, Watch() as watch:
        images + torch.ones(4).to("cuda")
        with pytest.raises(DataDependentOutputException):
            images.sum().item()
    with watch:
        torch.ones(4).sum().item()
    assert watch.noted == ["aten::_to_copy", "aten::_local_scalar_dense"]
