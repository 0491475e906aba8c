"""A short training of an almost-orthogonal network, and certification of its checkpoint, by the commands."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import torch

from lipcert.checkpoints import load_network, read_checkpoint
from lipcert.nn.almost_orthogonal import AlmostOrthogonal
from tests.running import QUICK, forked, train_each


def test_train_then_certify(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ("model.activation=maxmin", "model.parametrization=aol", "method=emma", "bound=global", "epsilon=0.1")
    (done,) = train_each(
        [[*QUICK, *words, "sparsity=none", "evaluation.pgd_steps=10", f"hydra.run.dir={run}"]], tmp_path
    )
    assert done["exit"] == 0, done["stderr"]
    results = json.loads((run / "results.json").read_text())
    assert results["parametrization"] == "aol"
    assert results["certified_accuracy"] <= results["pgd_accuracy"] <= results["clean_accuracy"]
    checkpoint = run / "checkpoints" / "last.ckpt"
    assert read_checkpoint(checkpoint).description["parametrization"] == "aol"
    network = load_network(checkpoint, (1, 8, 8), 10).model
    assert sum(isinstance(part, AlmostOrthogonal) for part in network.modules()) == 4
    for layer in (network[5], network[-1]):
        assert float(torch.linalg.svdvals(layer.weight.detach().double())[0]) <= 1 + 1e-5
    certified = forked("-m", "lipcert.certify", f"checkpoint={checkpoint}", "limit=5", cwd=tmp_path)
    assert certified.returncode == 0, certified.stderr
    with next(run.glob("certificates/*/certificates.csv")).open() as rows:
        assert len(list(csv.DictReader(rows))) == 5
