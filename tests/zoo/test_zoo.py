"""The zoo: entries are made by one rule, checked against their files, and a bad one does not keep others unchecked."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import lipcert
from lipcert.checkpoints import read_checkpoint
from lipcert.checkpoints.reading import ZOO
from lipcert.checkpoints.safe_tensors import write_safetensors
from lipcert.commands.zoo import main
from lipcert.records import read_record
from lipcert.training import evaluation
from tests.recheck.records import BUILDER, nearest_mean

SHIPPED = sorted(path.name for path in ZOO.iterdir())
SMALLEST = "digits-small-gloro"
LARGEST = 1_000_000
"""Bytes of weights in the repository."""


@pytest.fixture(scope="module", name="zoo")
def fixture_zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two entries: a network of one's own, submitted here, and a shipped one."""
    folder = tmp_path_factory.mktemp("zoo")
    torch.save(nearest_mean().state_dict(), folder / "mine.pt")
    shutil.copytree(ZOO / SMALLEST, folder / "all" / "shipped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "auto_attack_robust", lambda model, images, *_, **__: torch.ones(len(images)) > 0)
        main(_submitted(folder))
    return folder


def _submitted(folder: Path) -> list[str]:
    words = ["--builder", BUILDER, "--data", "digits", "--epsilon", "0.1", "--limit", "3", "--name", "mine"]
    return ["submit", str(folder / "mine.pt"), *words, "--output", str(folder / "all")]


def _refused(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(list(words))
    assert stopped.value.code == 1
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    return said.out, said.err


def test_an_entry_says_what_its_files_say(zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = zoo / "all" / "mine"
    card, record = json.loads((folder / "card.json").read_text()), read_record(folder / "certificate.json")
    assert card["certified"]["certified_accuracy"] == sum(row.certified for row in record.rows) / 3
    assert card["evaluation"]["num_test"] == card["evaluation"]["autoattack_images"] == 3
    assert card["builder"] == BUILDER
    assert card["parameters"] == 64 * 65 + 10 * 65
    assert str(zoo) not in (folder / "certificate.json").read_text() + (folder / "card.json").read_text()
    weights = load_file(folder / "weights.safetensors")
    assert all(torch.equal(weights[name], each) for name, each in nearest_mean().state_dict().items())
    assert f"type --builder {BUILDER}" in _refused(capsys, "--zoo", str(zoo / "all"), "verify", "mine")[1]
    assert f"{folder} has a card already" in _refused(capsys, *_submitted(zoo))[1]
    (folder / "card.json").rename(folder / "kept")
    words = [word if word != "0.1" else "0.2" for word in _submitted(zoo)]
    assert "holds a record of another network, radius or images" in _refused(capsys, *words)[1]
    (folder / "kept").rename(folder / "card.json")
    main(["--zoo", str(zoo / "all"), "verify", "mine", "--count", "1", "--builder", BUILDER])
    assert "1 of 1 rows derived anew" in capsys.readouterr().out


def _edit_card(folder: Path, key: str, value: object) -> None:
    content = json.loads((folder / "card.json").read_text())
    part, _, last = key.rpartition(".")
    (content[part] if part else content)[last] = value
    (folder / "card.json").write_text(json.dumps(content))


def _other_weights(folder: Path) -> None:
    content = bytearray((folder / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(content)


def _another_network(folder: Path) -> None:
    """Weights and card agree, the record is of others."""
    path = folder / "weights.safetensors"
    checkpoint = read_checkpoint(path)
    tensors = {name: each + 0.01 for name, each in checkpoint.state_dict.items()}
    said = {"description": checkpoint.description, "network": vars(checkpoint.origin), "data": checkpoint.data}
    write_safetensors(path, tensors, said)
    _edit_card(folder, "weights.sha256", _sha256(path))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_other_weights, "weights.safetensors is not that of the card: its SHA-256 is "),
        (_another_network, "The record is of another network"),
        (lambda folder: (folder / "weights.safetensors").unlink(), "--weights FOLDER names where its weights lie"),
        (lambda folder: (folder / "card.json").unlink(), "No such file"),
        (lambda folder: (folder / "card.json").write_text("{"), "Expecting property name"),
        (lambda folder: (folder / "certificate.json").write_text("{}"), "certificate.json is not that of the card"),
        (lambda folder: _edit_card(folder, "certified.certified_accuracy", 1.0), "its certified is Certified("),
        (lambda folder: _edit_card(folder, "epsilon", 0.2), "its epsilon is (0.2,), but the record says (0.3,)"),
        (lambda folder: _edit_card(folder, "evaluation.pgd_accuracy", 0.99), "its pgd_accuracy of 0.99 is not between"),
    ],
)
def test_a_bad_entry_is_refused_and_others_are_checked(
    zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], None], message: str
) -> None:
    shutil.copytree(zoo / "all", tmp_path / "all")
    shutil.copytree(tmp_path / "all" / "shipped", tmp_path / "all" / "bad")
    shutil.rmtree(tmp_path / "all" / "shipped")
    spoil(tmp_path / "all" / "bad")
    out, err = _refused(capsys, "--zoo", str(tmp_path / "all"), "verify", "--count", "0", "--builder", BUILDER)
    assert err.startswith("error: bad: ")
    assert message in err
    assert "mine: confirmed" in out


def test_weights_that_are_elsewhere(zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(zoo / "all" / "shipped", tmp_path / "all" / "large")
    (tmp_path / "all" / "large" / "weights.safetensors").rename(tmp_path / "large.safetensors")
    main(["--zoo", str(tmp_path / "all"), "verify", "--count", "0", "--weights", str(tmp_path)])
    assert "confirmed: large" in capsys.readouterr().out


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_networks_load_by_name(name: str) -> None:
    checkpoint = read_checkpoint(name)
    assert checkpoint.path.stat().st_size < LARGEST
    logits = lipcert.load(name)(torch.zeros(2, *checkpoint.origin.image_shape))
    assert logits.shape == (2, 10)


def test_the_leaderboard_lists_them_by_what_is_certified(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert sorted(line[0] for line in lines[1:]) == SHIPPED
    for name, data, epsilon, *_ in lines[1:]:
        (total,) = read_record(ZOO / name / "certificate.json").totals
        assert (data, float(epsilon)) == (name.partition("-")[0], pytest.approx(total.epsilon, rel=1e-3))
        assert f"{100 * total.certified_accuracy:.1f}" in next(line for line in lines if line[0] == name)


def test_damaged_safetensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes((ZOO / SMALLEST / "weights.safetensors").read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"x\.safetensors is damaged or no file of safetensors"):
        lipcert.load(path)
