"""What backward linear bounds add to the default cascade: cascade.py CHECKPOINT DATA COUNT EPSILON...."""

from __future__ import annotations

import sys

import torch

from lipcert.bounds import Bound
from lipcert.certificates import STAGES, Cascade, Stage
from lipcert.checkpoints import load_network
from lipcert.data import load_images

checkpoint, data, count, *epsilons = sys.argv[1:]
split = load_images(data, None)
builder = "residual:build" if checkpoint.endswith("residual.pt") else None  # run with own_network/ on PYTHONPATH
model = load_network(checkpoint, tuple(split.test.images.shape[1:]), 10, builder=builder).model
images, labels = split.test.first(int(count))[:]
new = [
    Stage(name, Bound.TIGHT, 30, within=0.3, slope_steps=steps) for name, steps in (("crown", 0), ("crown-alpha", 20))
]
for epsilon in map(float, epsilons):
    cascade = Cascade(model, (*STAGES, *new))
    batches = zip(images.split(16), labels.split(16), strict=True)
    certified = torch.cat([cascade(*batch, epsilon).certified for batch in batches])
    work = "; ".join(
        f"{stage.name}: {tally.entered} in, {tally.certified} certified, {tally.seconds:.1f} s"
        for stage, tally in zip(cascade.stages, cascade.tallies, strict=True)
    )
    sys.stdout.write(f"{checkpoint} eps {epsilon} certified {int(certified.sum())} of {count}; {work}\n")
