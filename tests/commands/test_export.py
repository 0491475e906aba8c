"""`python -m lipcert.export`: what goes home is the network, its record checks it, nothing that is there is lost."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import lipcert
from lipcert.commands.check import main as check
from lipcert.commands.export import main as export
from lipcert.records import read_record
from tests.recheck.records import BUILDER, data, honest_rows, nearest_mean, write
from tests.running import python

FILES = {"weights.pt", "model.py", "model.pt2", "model.onnx", "export.json", "certificate.json", "certificates.csv"}
ALONE = """
import sys, torch
from model import load
logits = load("weights.pt")(torch.load("../images.pt"))
program = torch.export.load("model.pt2").module()
assert torch.equal(program(torch.load("../images.pt")), logits)
assert not any(name.startswith(("lipcert", "torchvision", "pytorch_lightning")) for name in sys.modules)
torch.save(logits, "../logits.pt")
"""

Refused = Callable[..., str]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    model = nearest_mean()
    written = write(folder, model, honest_rows(model))
    words = [str(written.checkpoint), "--certificate", str(written.certificate), "--builder", BUILDER]
    export([*words, "--output", str(folder / "home")])
    return folder


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    def refused(command: Callable[[list[str]], None], *words: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            command(list(words))
        assert stopped.value.code == 1
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert said.count("\n") == 1
        return said

    return refused


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_what_is_exported_computes_the_same_without_lipcert(exported: Path) -> None:
    assert {path.name for path in (exported / "home").iterdir()} == FILES
    images, labels = data()
    torch.save(images, exported / "images.pt")
    done = python("-B", "-c", ALONE, cwd=exported / "home", importing=exported / "home")
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        logits = nearest_mean()(images)
    assert torch.equal(torch.load(exported / "logits.pt"), logits)
    session = onnxruntime.InferenceSession(exported / "home" / "model.onnx")
    for count in (1, len(images)):
        (found,) = session.run(["logits"], {"images": images[:count].numpy()})
        rounding = {row.index: row.rounding for row in read_record(exported / "home" / "certificate.json").rows}
        leads = [each - each[np.arange(count), labels[:count]][:, None] for each in (found, logits[:count].numpy())]
        for index, difference in enumerate(np.abs(leads[0] - leads[1]).max(axis=1)):
            assert difference <= rounding[index]


def test_the_record_is_bound_to_the_files(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = exported / "home"
    said = read_record(home / "certificate.json").contents.model.description
    digests = _digests(home)
    assert said == {"exported": {name: digests[name] for name in ("weights.pt", "model.py", "model.pt2", "model.onnx")}}
    for network in (home, home / "weights.pt"):
        check([str(home / "certificate.json"), "--checkpoint", str(network), "--count", "3", "--seed", "0"])
        assert "confirmed: 3 of 3 rows" in capsys.readouterr().out
    images, _ = data()
    assert torch.equal(lipcert.load(home)(images), nearest_mean()(images))


@pytest.mark.parametrize("name", ["weights.pt", "model.py", "model.pt2", "model.onnx"])
def test_a_file_that_was_changed_is_refused(exported: Path, tmp_path: Path, refused: Refused, name: str) -> None:
    for path in (exported / "home").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content + b"\n")
    words = (str(tmp_path / "certificate.json"), "--checkpoint", str(tmp_path))
    assert f"{name} was changed" in refused(check, *words)
    manifest = json.loads((tmp_path / "export.json").read_text())
    manifest["files"][name] = hashlib.sha256(content + b"\n").hexdigest()
    (tmp_path / "export.json").write_text(json.dumps(manifest))
    said = refused(check, *words)
    assert ("model.py is refused" if name == "model.py" else "The record's model.description is") in said or (
        name == "weights.pt" and "damaged" in said
    )
    (tmp_path / name).unlink()
    assert ("no such file" if name == "weights.pt" else name) in refused(check, *words)


def test_a_folder_that_is_there_stays_as_it_is(exported: Path, refused: Refused) -> None:
    before, words = _digests(exported / "home"), (str(exported / "home"), "--output", str(exported / "home"))
    assert "home is there already; choose another --output" in refused(export, *words)
    assert _digests(exported / "home") == before
    assert not list(exported.glob(".*"))


def test_refusals(exported: Path, tmp_path: Path, refused: Refused) -> None:
    other = nearest_mean()
    with torch.no_grad():
        other[3].bias.add_(1e-3)
    torch.save(other.state_dict(), tmp_path / "other.pt")
    certificate = str(exported / "certificate.json")
    words = (str(tmp_path / "other.pt"), "--builder", BUILDER)
    assert "another network" in refused(export, *words, "--certificate", certificate)
    assert "for which images" in refused(export, *words)
    assert "no such file" in refused(export, str(tmp_path / "missing.pt"))
    assert "no such record" in refused(export, *words, "--certificate", str(tmp_path / "missing.json"))
    assert {path.name for path in tmp_path.iterdir()} == {"other.pt"}


def test_an_exported_network_is_exported_again(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(exported / "home"), "--output", str(exported / "again"), "--no-onnx"]
    export([*words, "--certificate", str(exported / "home" / "certificate.json")])
    assert "Check it" in capsys.readouterr().out
    assert {path.name for path in (exported / "again").iterdir()} == FILES - {"model.onnx"}
    assert (exported / "again" / "model.py").read_bytes() == (exported / "home" / "model.py").read_bytes()
