"""Networks of one's own, trained, certified and checked by the commands; what does not build is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lipcert
from lipcert.importing import trainable
from tests.running import QUICK, forked, train_each

MODULE = """
import torch
import torch.nn.functional as F
from torch import nn

def build(num_classes, width=4):
    return nn.Sequential(nn.Conv2d(1, width, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * width, num_classes))

class Net(nn.Module):
    def __init__(self, image_shape, num_classes, width=4):
        super().__init__()
        channels, height, width_of_image = image_shape
        self.first = nn.Conv2d(channels, width, 4, 2, 1)
        self.head = nn.Linear(width * height * width_of_image // 4, num_classes)
        self.register_buffer("mean", torch.full((1, 1, 1), 0.3))

    def forward(self, images):
        return self.head(F.relu(self.first(images - self.mean)).flatten(1))

def raises():
    raise RuntimeError("no luck")

def nothing():
    return 3

def normalised():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10))

def soft():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Softmax(1))

class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, images):
        return self.head((images if images.sum() > 0 else -images).flatten(1))

def three():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
"""

REFUSED = {
    "model.builder=mynet:raises": "builder=mynet:raises raised RuntimeError: no luck (mynet.py, line 21)",
    "model.builder=mynet:nothing": "Expected builder=mynet:nothing to return an nn.Module, got int",
    "model.builder=mynet:normalised": "Layer '2': batch norm is affine in eval mode",
    "model.builder=mynet:soft": "Layer '2' is a Softmax, which has no bound",
    "model.builder=mynet:Branches": "Layer 'model' (Branches), line 38 of forward cannot be followed",
    "model.builder=mynet:three": "tells 3 classes apart, digits has 10",
    "model.builder=mynet": "Expected builder=package.module:function, got 'mynet'",
    "model._target_=mynet.Missing": "builder=mynet.Missing was not found",
    "model.builder=mynet:build model.depth=3": "unexpected keyword argument 'depth'",
    "model=own": "Expected model.builder=package.module:function or model._target_=package.module.Class, got neither",
    "model.activatoin=relu": "There is no setting `model.activatoin`: did you mean `model.activation`?",
}

RUN = (*QUICK, "schedule.epochs=1", "evaluation.bounds=[]", "evaluation.pgd_steps=0")
STOP = "pytorch_lightning.callbacks.EarlyStopping monitor=val/clean_accuracy mode=max min_delta=2 patience=1"
"""Stops after two epochs: accuracies never rise by 2."""


def test_train_certify_check_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mynet.py").write_text(MODULE)
    stop = [f"+callbacks.stop.{each}" for each in f"_target_={STOP}".split()]
    built = [*RUN, "model.builder=mynet:build", "model.width=6", "hydra.run.dir=built", "schedule.epochs=4", *stop]
    target = [*RUN, "model._target_=mynet.Net", "method=bcp", "hydra.run.dir=target"]
    refused = [[*words.split(), "hydra.run.dir=refused", "data.root=nowhere"] for words in REFUSED]  # before data
    done = train_each([built, target, *refused], tmp_path)
    for outcome in done[:2]:
        assert outcome["exit"] == 0, outcome["stderr"]
    for outcome, sentence in zip(done[2:], REFUSED.values(), strict=True):
        assert outcome["exit"] == 1
        assert sentence in outcome["stderr"]
        assert len(outcome["stderr"].splitlines()) == 1
    assert "lipcert.certify built builder=mynet:build" in done[0]["stdout"].replace(f"{tmp_path}/", "")
    assert not (tmp_path / "refused").exists()
    results = json.loads((tmp_path / "built" / "results.json").read_text())
    assert [results[key] for key in ("model", "activation", "epochs")] == ["mynet.build", "own", 2]
    unasked = forked("-m", "lipcert.certify", "checkpoint=built", "limit=5", cwd=tmp_path)
    assert unasked.returncode == 1
    assert "name it: builder=mynet:build" in unasked.stderr
    words = ["checkpoint=target", "limit=5", "stages=[global,local]", "model._target_=mynet.Net", "model.width=4"]
    certified = forked("-m", "lipcert.certify", *words, cwd=tmp_path)
    assert certified.returncode == 0, certified.stderr
    words = ["target/certificates/last/certificate.json", "--checkpoint", "target/checkpoints/last.ckpt"]
    checked = forked("-m", "lipcert.check", *words, "--builder", "mynet.Net", cwd=tmp_path)
    assert "confirmed: 5 of 5 rows" in checked.stdout, checked.stderr
    monkeypatch.chdir(tmp_path)
    for run, builder in (("built", "mynet:build"), ("target", "mynet.Net")):
        assert lipcert.load(run, builder)(torch.rand(2, 1, 8, 8)).shape == (2, 10)


class Tied(nn.Module):
    """Uses its weight twice, once in a way that no layer shares."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.first, self.head, self.tied = nn.Linear(64, 64), nn.Linear(64, 10), tied

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = F.relu(self.first(images.flatten(1)))
        return self.head(F.linear(hidden, self.first.weight.t()) if self.tied else hidden)


def test_a_graph_learns_what_the_network_learns() -> None:
    torch.manual_seed(0)
    network, images = Tied(tied=False), torch.rand(3, 1, 8, 8)
    graph = trainable(network, (1, 8, 8))
    assert {id(each) for each in graph.parameters()} == {id(each) for each in network.parameters()}
    with torch.no_grad():
        network.first.weight.mul_(2)
    assert torch.equal(graph(images), network(images))
    with pytest.raises(lipcert.UnsupportedLayerError, match=r"`first\.weight` is used in a way"):
        trainable(Tied(tied=True), (1, 8, 8))
