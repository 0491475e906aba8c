"""What torch.compile makes of a whole training step, forward and loss: seconds to compile, then a step against eager.

python experiments/benchmark/compile.py
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch._dynamo.utils import counters

from lipcert.bounds import Bound, Economy, PowerNorms
from lipcert.losses import BCP, Setting, Sparsity
from lipcert.nn import build

BATCH, SHAPE, CLASSES = 64, (1, 28, 28), 10
WARM_UP, ROUNDS = 4, 12


def seconds(loss: Callable[[], Tensor], model: torch.nn.Module) -> float:
    """Return what one step takes, forward and backward."""
    started = time.perf_counter()
    loss().backward()
    model.zero_grad()
    return time.perf_counter() - started


def main() -> None:
    """Compile, time and print."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    model = build("small", SHAPE, CLASSES)
    images, labels = torch.rand(BATCH, *SHAPE), torch.randint(CLASSES, (BATCH,))
    setting = Setting(0.5, 0.5, Bound.LOCAL, PowerNorms(2), Sparsity(), economy=Economy())

    def eager() -> Tensor:
        return BCP()(model, images, labels, setting).loss

    compiled = torch.compile(eager)
    plain = [seconds(eager, model) for _ in range(WARM_UP)]
    first = [seconds(compiled, model) for _ in range(WARM_UP)]
    pairs = [(seconds(eager, model), seconds(compiled, model)) for _ in range(ROUNDS)]
    medians = [statistics.median(each) for each in zip(*pairs, strict=True)]
    sys.stdout.write(
        f"small, batch {BATCH}, local bound, BCP, 2 threads, torch {torch.__version__}\n"
        f"first {WARM_UP} steps: eager {sum(plain):.1f} s, compiled {sum(first):.1f} s\n"
        f"then a step, median of {ROUNDS}: eager {medians[0]:.4f} s, compiled {medians[1]:.4f} s, "
        f"ratio {medians[1] / medians[0]:.2f}\n"
        f"graphs: {counters['stats']['unique_graphs']}, reasons for breaks: {len(counters['graph_break'])}\n"
    )


if __name__ == "__main__":
    main()
