"""Where the time of a local step goes: shares of operations, by the profiler, of a trained network.

python experiments/benchmark/shares.py CHECKPOINT
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from lipcert.bounds import Bound, Economy, PowerNorms
from lipcert.checkpoints import load_network
from lipcert.data.sources import load_images
from lipcert.losses import BCP, Setting, Sparsity

KINDS = {
    "convolutions, backward": ("aten::convolution_backward",),
    "convolutions, forward and transposed": ("aten::mkldnn_convolution", "aten::_convolution", "aten::thnn_conv2d"),
    "matrix products": ("aten::mm", "aten::bmm", "aten::addmm"),
    "eigenvectors": ("aten::_linalg_eigh",),
}
"""Operations by kind; all others are passes over tensors."""


def main() -> None:
    """Profile ten steps after three, print shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    arguments = parser.parse_args()
    source = load_images("fashionmnist")
    model = load_network(arguments.checkpoint, (1, 28, 28), 10).model.train().requires_grad_(True)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, labels = source.test.first(64)[:]
    images = images.contiguous(memory_format=torch.channels_last)
    for bound in (Bound.GLOBAL, Bound.LOCAL):
        setting = Setting(0.5, 0.5, bound, PowerNorms(2), Sparsity(), economy=Economy())
        method = BCP()

        def step(setting: Setting = setting, method: BCP = method) -> None:
            model.zero_grad(set_to_none=True)
            method(model, images, labels, setting).loss.backward()

        for _ in range(3):
            step()
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            for _ in range(10):
                step()
        own = {event.key: event.self_cpu_time_total for event in profiled.key_averages()}
        whole = sum(own.values())
        shares = {kind: sum(own.get(name, 0) for name in names) / whole for kind, names in KINDS.items()}
        shares["passes over tensors"] = 1 - sum(shares.values())
        pays = setting.economy.state_dict() if setting.economy is not None else {}
        sys.stdout.write(f"{bound}: " + ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items()) + "\n")
        sys.stdout.write(
            f"  done: {', '.join(work for work, (does, _) in pays.items() if does) or 'nothing optional'}\n"
        )


if __name__ == "__main__":
    main()
