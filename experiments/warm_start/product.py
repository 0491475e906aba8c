"""The norms that a training step uses, over the exact masked norms of the same network at the same masks.

Training goes on for some steps as it would by default (`shared`, two iterations, masks that gain nothing left out);
then norms of the steps that follow are compared. A norm left out is the whole map's, and may lie above the masked one.

OMP_NUM_THREADS=1 python experiments/warm_start/product.py CHECKPOINT --output product.json
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from measure import BATCH, LANCZOS_STEPS, SHAPE, batches, say
from torch import Tensor, nn

from lipcert.bounds import Analysis, Bound, Economy, PowerNorms, analyze
from lipcert.bounds.lanczos import norm_bracket
from lipcert.bounds.warm_start import MapsMet
from lipcert.checkpoints import load_network
from lipcert.commands import write_json
from lipcert.data.sources import load_images
from lipcert.losses import BCP, Setting, Sparsity
from lipcert.nn.architectures import project_thresholds

EPSILON = 0.55
LEARNING_RATE = 5e-6
IMAGES = 1280
EPOCHS = 4
COMPARED_FROM, COMPARED_EVERY, COMPARED = 60, 5, 16


def ratios(model: nn.Module, images: Tensor, analysis: Analysis) -> Tensor:
    """Return norm used over exact norm, (layers, images); layers follow one another."""
    double, met = copy.deepcopy(model).double(), MapsMet(PowerNorms(1, "float32"))
    images = images[:COMPARED].double()
    with torch.no_grad():
        analyze(double, images[:1], EPSILON, Bound.LOCAL, met)
    found, columns = [], None
    for each in analysis.activations:
        rows, varying = (None if mask is None else mask[:COMPARED].double() for mask in each.masks.value[::-1])
        bracket = norm_bracket(met.maps[each.name], images, LANCZOS_STEPS, 1e-9, rows, columns)
        used = each.masked_norm.detach().double().expand(BATCH)[:COMPARED]
        found.append(used / bracket.lower)
        columns = varying
    return torch.stack(found)


def main() -> None:
    """Train on, compare, print and write a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="of a net of ours on Fashion-MNIST")
    parser.add_argument("--output", type=Path, default=Path("product.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = load_network(arguments.checkpoint, SHAPE, 10).model.train()
    norms, economy = PowerNorms(2), Economy()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    compared = []
    for step, (_, images, labels, _) in enumerate(batches(load_images("fashionmnist").train.first(IMAGES), EPOCHS)):
        setting = Setting(EPSILON, 0.5, Bound.LOCAL, norms, Sparsity(), economy=economy)
        objective = BCP()(model, images, labels, setting)
        optimizer.zero_grad()
        objective.loss.backward()
        if step >= COMPARED_FROM and step % COMPARED_EVERY == 0:
            compared.append(ratios(model, images, objective.analysis))
            say(f"step {step}: {compared[-1].prod(dim=0).mean().item():.4f}")
        optimizer.step()
        project_thresholds(model)
    every = torch.cat(compared, dim=1)
    capped = every.clamp_max(1)
    report = {
        "torch": torch.__version__,
        "images": every.shape[1],
        "layers": every.mean(dim=1).tolist(),
        "product_mean": every.prod(dim=0).mean().item(),
        "product_of_capped_mean": capped.prod(dim=0).mean().item(),
        "product_of_capped_worst": capped.prod(dim=0).min().item(),
        "left_out": [work for work, (pays, _) in economy.state_dict().items() if not pays],
    }
    say("\n".join(f"{key}: {value}" for key, value in report.items()))
    write_json(arguments.output, report)


if __name__ == "__main__":
    main()
