"""Commands take networks with a `forward` of their own, and ONNX files, where they take checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from tests.recheck.records import nearest_mean
from tests.running import forked

MODULE = """
import torch
import torch.nn.functional as F
from torch import nn


class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, images):
        hidden = F.relu(self.first(torch.flatten(images, 1)))
        return self.last(hidden + 0)
"""


@pytest.fixture(scope="module", name="folder")
def fixture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A module with a class of its own, its weights, and the same network as an ONNX file."""
    folder, (_, first, _, last) = tmp_path_factory.mktemp("networks"), nearest_mean()
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    (folder / "mine.py").write_text(MODULE)
    state = nn.ModuleDict({"first": first, "last": last}).state_dict()
    torch.save(state, folder / "mine.pt")
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("Gemm", ["flat", "first.weight", "first.bias"], ["hidden"], transB=1),
        helper.make_node("Relu", ["hidden"], ["bent"]),
        helper.make_node("Gemm", ["bent", "last.weight", "last.bias"], ["logits"], transB=1),
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("images", ("n", 1, 8, 8)), ("logits", ("n", 10)))
    ]
    constants = [numpy_helper.from_array(tensor.numpy(), name) for name, tensor in state.items()]
    graph = helper.make_graph(nodes, "mine", values[:1], values[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "mine.onnx")
    return folder


@pytest.mark.parametrize("kind", ["pt", "onnx"])
def test_records_of_imported_networks_are_checked(kind: str, folder: Path) -> None:
    own = kind == "pt"
    settings = [f"checkpoint=mine.{kind}", "data=digits", "epsilon=0.05", "limit=8", f"output={kind}"]
    done = forked("-m", "lipcert.certify", *settings, *(["builder=mine:Mine"] if own else []), cwd=folder)
    assert done.returncode == 0, done.stderr
    said = json.loads((folder / kind / "certificate.json").read_text())["model"]["description"]
    assert said["imported"].startswith(
        "from a forward of its own" if own else "from an ONNX file; as executed by torch"
    )
    words = [f"{kind}/certificate.json", "--checkpoint", f"mine.{kind}", *(["--builder", "mine:Mine"] if own else [])]
    checked = forked("-m", "lipcert.check", *words, "--rows", "0,1,2,3", cwd=folder)
    assert checked.returncode == 0, checked.stderr
    assert "confirmed: 4 of 4 rows" in checked.stdout


def test_an_onnx_file_is_a_whole_network(folder: Path) -> None:
    words = ["checkpoint=mine.onnx", "data=digits", "builder=mine:Mine", "epsilon=1"]
    done = forked("-m", "lipcert.certify", *words, cwd=folder)
    assert done.returncode == 1
    assert "is a whole network; leave model=, activation= and builder= out" in done.stderr
