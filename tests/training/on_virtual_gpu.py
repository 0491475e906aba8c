"""Training steps and an evaluation on a virtual GPU, for `test_virtual_gpu.py`: writes what they did as JSON.

With the argument `counts`: the operations and the bytes of a step alone.
"""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from lipcert.bounds import Bound
from lipcert.bounds.plan import measure_plan
from lipcert.data import Split
from lipcert.data.batches import GlobalBatches
from lipcert.graph import compile_graph
from lipcert.losses import BCP, Setting, Sparsity
from lipcert.losses.objective import Method
from lipcert.nn import build
from lipcert.norms import PowerNorms
from lipcert.system.execution import PRECISIONS
from lipcert.system.schema import BoundConfig
from lipcert.training.evaluation import EvaluationSettings, evaluate
from lipcert.training.module import RobustClassifier
from lipcert.training.schedules import Schedule
from tests import virtual_gpu
from tests.training.steps import CASES, CLASSES, IMAGES, METHODS, OTHERS, SHAPE

RADIUS = 0.02


def stepped(method: Method, bound: str, activation: str) -> dict[str, Any]:
    """Take two steps, the second not measured; return what waited in it and where what both handed out was."""
    model = build("small", SHAPE, CLASSES, activation)
    sparsity = Sparsity(0.1 if "clipped" in activation and isinstance(method, BCP) else 0.0)
    schedule = Schedule(2, 0, 1, 1, 1e-3, 1e-4, 0.3)
    setting = BoundConfig(name=bound, iterations=2, precision="float32")
    module = RobustClassifier(model, method, torch.optim.SGD, schedule, SHAPE, 0.3, setting, sparsity)
    virtual_gpu.place(module)
    module.current_epsilon, module.current_mixing = 0.3, 0.5
    images = virtual_gpu.placed(torch.rand(IMAGES, *SHAPE))
    labels = virtual_gpu.placed(torch.arange(IMAGES) % CLASSES)
    handed: set[str] = set()

    def hand_out(values: dict[str, Tensor], **_: Any) -> None:
        handed.update(each.device.type for each in values.values())

    batches = GlobalBatches(2 * IMAGES, IMAGES)
    trainer = SimpleNamespace(train_dataloader=SimpleNamespace(sampler=batches))
    waited = []
    with (
        patch.object(module, "_trainer", trainer),
        patch.object(module, "log_dict", hand_out),
        patch.object(module, "log", lambda name, value, **_: hand_out({name: value})),
        patch.object(torch.distributed, "is_initialized", lambda: True),
        patch.object(torch.distributed, "get_world_size", lambda: 1),
        patch.object(torch.distributed, "all_reduce", lambda values: hand_out({"gains": values})),
    ):
        for number in range(2):
            virtual_gpu.waits.clear()
            module.training_step((images, labels), number).backward()
            waited.append(dict(virtual_gpu.waits))
        measure_plan(module.graph, images, 0.3, bound, module.norms)
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return {
        "waited": waited[1],
        "handed": sorted(handed),
        "finite": all(bool(gradient.cpu().isfinite().all()) for gradient in gradients) and len(gradients) > 0,
    }


def counted(published: bool, images: int, side: int) -> dict[str, Any]:
    """Return what a local step of 8C2F launches and touches, in plain steps where it says so; nothing is skipped.

    `published`: the recipe of Table 3, with gradients through boxes and a sparsity loss; the defaults otherwise.
    `images`: of a batch, of `side` x `side` pixels.
    """
    shape = (3, side, side)
    model, norms = build("8c2f", shape, 200, "clipped_relu"), PowerNorms(1 if published else 2, "float32")
    inputs, labels = virtual_gpu.placed(torch.rand(images, *shape)), virtual_gpu.placed(torch.arange(images))
    virtual_gpu.place(model)
    sparsity, graph = Sparsity(0.01 if published else 0.0), compile_graph(model, shape)
    setting = Setting(0.16, 0.5, Bound.LOCAL, norms, sparsity, box_gradients=published, graph=graph)

    def robust() -> Tensor:
        return BCP()(model, inputs, labels, setting).loss

    robust()
    vectors, found = dict(norms.named_buffers()), []
    for loss in (robust, lambda: F.cross_entropy(model(inputs), labels)):
        model.zero_grad()
        virtual_gpu.kernels.clear()
        virtual_gpu.touched.clear()
        loss().backward()
        found.append((virtual_gpu.kernels.total(), virtual_gpu.touched.total()))
    (launched, bytes_of_step), (plain, bytes_of_plain) = found
    kept = dict(norms.named_buffers())
    return {
        "launched": launched,
        "launched_by_a_plain_step": plain,
        "bytes": round(bytes_of_step / bytes_of_plain, 2),
        "in_place": kept.keys() == vectors.keys() and all(kept[name] is vector for name, vector in vectors.items()),
    }


def evaluated() -> list[dict[str, Any]]:
    """Return what an evaluation finds on the CPU, and on the device."""
    torch.manual_seed(0)
    model = build("small", SHAPE, CLASSES, "clipped_relu").eval()
    images = torch.rand(20, *SHAPE)
    with torch.no_grad():
        split = Split(images, model(images).argmax(dim=1))
    settings = EvaluationSettings(["global", "tight"], 20, 2, 5, False, 7)
    results = [evaluate(model, split, RADIUS, Bound.LOCAL, settings)]
    virtual_gpu.place(model)
    moved = Split(virtual_gpu.placed(split.images), virtual_gpu.placed(split.labels))
    with patch.dict(PRECISIONS, virtual=PRECISIONS["cpu"]):
        return [*results, evaluate(model, moved, RADIUS, Bound.LOCAL, settings)]


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    if "counts" in sys.argv:
        json.dump([counted(published, 16, 64) for published in (True, False)], sys.stdout)
        return
    made = METHODS | OTHERS
    steps = {"/".join(case): stepped(made[case[0]](), *case[1:]) for case in CASES}
    counts = [counted(published, 2, 32) for published in (True, False)]
    json.dump({"steps": steps, "evaluations": evaluated(), "counts": counts}, sys.stdout)


if __name__ == "__main__":
    main()
