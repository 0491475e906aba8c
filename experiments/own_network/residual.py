"""A residual network of plain torch, trained the ordinary way: nothing of it was made to be certified.

python experiments/own_network/residual.py residual.pt
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from lipcert.data.sources import load_images
from lipcert.nn import Residual


def build() -> nn.Module:
    """Return the untrained network: images (1, 8, 8), ten classes."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        Residual(nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def train(epochs: int = 20) -> nn.Module:
    """Train on scikit-learn's digits by cross-entropy with weight decay; return the network in eval mode."""
    torch.manual_seed(0)
    images, labels = load_images("digits").train[:]
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.5)
    for _ in range(epochs):
        for rows in torch.randperm(len(labels)).split(64):
            loss = F.cross_entropy(model(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


if __name__ == "__main__":
    torch.save(train().state_dict(), Path(sys.argv[1]))
