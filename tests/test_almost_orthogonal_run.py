"""A short training of an almost-orthogonal network by the commands; its checkpoint is certified, its record checked."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import torch

from lipcert.checkpoints import load_network, read_checkpoint
from tests.running import QUICK, forked, train_each


def test_train_then_certify_then_check(tmp_path: Path) -> None:
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
    assert (
        sum(name.endswith("parametrizations.weight.original") for name in read_checkpoint(checkpoint).state_dict) == 4
    )
    assert not any("parametrizations" in name for name in network.state_dict())
    for layer in (network[5], network[-1]):
        assert float(torch.linalg.svdvals(layer.weight.detach().double())[0]) <= 1 + 1e-5
    certified = forked("-m", "lipcert.certify", f"checkpoint={checkpoint}", "limit=5", cwd=tmp_path)
    assert certified.returncode == 0, certified.stderr
    (folder,) = run.glob("certificates/*")
    with (folder / "certificates.csv").open() as rows:
        assert len(list(csv.DictReader(rows))) == 5
    words = [str(folder / "certificate.json"), "--checkpoint", str(checkpoint)]
    checked = forked("-m", "lipcert.check", *words, cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert "confirmed: 5 of 5 rows" in checked.stdout
