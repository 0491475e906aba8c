"""The most memory that certifying 8C2F on 64x64 images with 200 classes takes, at a batch chosen for 8 GB.

    python experiments/certification/memory.py

Few Lanczos steps: memory does not depend on their number. Random weights, scaled so that nothing is decided early.
"""

from __future__ import annotations

import resource
import sys
import time

import torch

from lipcert.bounds import Bound
from lipcert.certificates import Certifier
from lipcert.certification.memory import bytes_per_image, choose_batch_size
from lipcert.nn import build

MEMORY_GB = 8.0
SHAPE, CLASSES = (3, 64, 64), 200


def main() -> None:
    """Print the peak of this process after each bound."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build("8c2f", SHAPE, CLASSES).eval()
    batch = choose_batch_size(model, SHAPE, torch.device("cpu"), memory_gb=MEMORY_GB)
    images = torch.rand(batch, *SHAPE)
    labels = model(images).argmax(dim=1)
    needed = bytes_per_image(model, SHAPE) / 2**20
    sys.stdout.write(f"batch {batch}, estimated {needed:.0f} MB an image\n")
    for bound in (Bound.GLOBAL, Bound.LOCAL, Bound.TIGHT, Bound.LIPLT):
        certifier = Certifier(model, bound, lanczos_steps=3)
        certifier.norms.whole_steps = 10
        started = time.perf_counter()
        count = 2 if bound is Bound.LIPLT else batch  # so many images try it first; random networks gain nothing
        certifier(images[:count], labels[:count], 36 / 255)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        sys.stdout.write(f"{bound}, {count} images: peak {peak:.2f} GB after {time.perf_counter() - started:.0f} s\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
