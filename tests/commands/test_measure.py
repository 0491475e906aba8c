"""`python -m lipcert.measure`: the files it leaves, that they fit each other and `lipcert.certify`, what it refuses."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from lipcert.certificates import certify
from lipcert.commands.measure import main
from lipcert.commands.report import main as report
from lipcert.jobs import measure as job
from lipcert.jobs.measure import as_png
from lipcert.records.measurement import Measurement, read_measurement
from tests.reporting.examples import Page, write_run
from tests.running import contents
from tests.soundness.trained import DESCRIPTION, EPSILON, digits, trained

COUNT = 24
QUICK = (
    f"limit={COUNT}",
    "convergence_images=6",
    "pgd_steps=5",
    "points=6",
    "rounds=3",
    "thumbnails=3",
    "iterations=200",
)
OWN = "checkpoint=run/checkpoints/last.ckpt"

Command = Callable[..., tuple[Any, str, str]]


def _write_checkpoint(folder: Path) -> None:
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    state = {f"model.{name}": tensor for name, tensor in trained("clipped_relu").state_dict().items()}
    torch.save({"state_dict": state, "lipcert": DESCRIPTION}, folder / "checkpoints" / "last.ckpt")


def _run(arguments: tuple[str, ...], patches: pytest.MonkeyPatch) -> Any:
    GlobalHydra.instance().clear()
    patches.setattr(sys, "argv", ["lipcert.measure", *arguments])
    try:
        main()
    except SystemExit as stop:
        return stop.code
    return 0


@pytest.fixture(scope="module", name="home")
def fixture_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that was measured."""
    folder = tmp_path_factory.mktemp("home")
    _write_checkpoint(folder / "run")
    with pytest.MonkeyPatch.context() as patches:
        patches.chdir(folder)
        assert _run((OWN, *QUICK), patches) == 0
    return folder


@pytest.fixture(scope="module", name="measured")
def fixture_measured(home: Path) -> Measurement:
    return read_measurement(home / "run" / "measurements" / "last")


@pytest.fixture(name="measure")
def fixture_measure(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `lipcert.measure` in the folder, in this process."""
    monkeypatch.chdir(home)

    def command(*arguments: str) -> tuple[Any, str, str]:
        code = _run(arguments, monkeypatch)
        return code, *capsys.readouterr()

    return command


def test_files(home: Path, measured: Measurement) -> None:
    kept = [f"thumbnails/{index}.png" for index in measured.header.thumbnails]
    assert sorted(contents(home / "run" / "measurements" / "last")) == [
        *("convergence.csv", "curves.csv", "images.csv", "measurement.json"),
        *sorted(kept),
    ]
    assert len(kept) == 6
    header = measured.header
    assert (header.data.name, header.data.num_images, header.epsilon) == ("digits", COUNT, EPSILON)
    assert header.model.description["model"] == "small"
    assert header.failure_probability.total == header.failure_probability.norms * 1e-9


def test_lower_precision_by_the_environment_is_refused(measure: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_DEFAULT_FPMATH_MODE", "BF16")
    code, _, said = measure(OWN, *QUICK, "output=elsewhere")
    assert code == 1
    assert "ONEDNN_DEFAULT_FPMATH_MODE=BF16" in said


def test_curves_against_certify(measured: Measurement) -> None:
    images, labels = digits(COUNT)
    at = next(row for row in measured.curves if row.epsilon == EPSILON)
    for bound, fraction in zip(measured.header.bounds, at.certified, strict=True):
        assert fraction == certify(trained("clipped_relu"), images, labels, EPSILON, bound=bound).certified_accuracy
    tight = certify(trained("clipped_relu"), images, labels, EPSILON, bound="tight")
    assert torch.allclose(torch.tensor([row.margin for row in measured.images]).double(), tight.margin, rtol=1e-3)


def test_curves_fall_and_lie_below_pgd(measured: Measurement) -> None:
    assert [row.epsilon for row in measured.curves] == sorted(row.epsilon for row in measured.curves)
    for place in range(len(measured.header.bounds)):
        values = [row.certified[place] for row in measured.curves]
        assert values == sorted(values, reverse=True)
        assert all(row.certified[place] <= row.pgd for row in measured.curves)
    pgd = [row.pgd for row in measured.curves]
    assert pgd == sorted(pgd, reverse=True)
    first = measured.curves[0]
    clean = sum(row.prediction == row.label for row in measured.images) / COUNT
    assert first.pgd == clean
    assert set(first.certified) == {clean}


def test_convergence(measured: Measurement) -> None:
    layers = list(dict.fromkeys(row.layer for row in measured.convergence))
    assert layers == ["1", "3", "6"]
    for layer in layers:
        assert sum(row.images for row in measured.convergence if row.layer == layer) == 6


def test_thumbnails_are_the_images(home: Path, measured: Measurement) -> None:
    images, _ = digits(COUNT)
    radii = {row.index: row.radii[-1] for row in measured.images if row.prediction == row.label}
    ordered = sorted(radii, key=lambda index: radii[index])
    assert set(measured.header.thumbnails) == {*ordered[:3], *ordered[-3:]}
    for index in measured.header.thumbnails:
        picture = Image.open(measured.folder / "thumbnails" / f"{index}.png")
        assert list(picture.getdata()) == (images[index] * 255).round().int().flatten().tolist()


def test_pictures_of_any_number_of_channels() -> None:
    image = torch.rand(3, 4, 5)
    picture = Image.open(io.BytesIO(as_png(image)))
    assert (picture.mode, picture.size) == ("RGB", (5, 4))
    assert picture.getpixel((2, 1)) == tuple((image[:, 1, 2] * 255).round().int().tolist())
    assert Image.open(io.BytesIO(as_png(torch.rand(5, 4, 4)))).mode == "L"


def test_refused(measure: Command) -> None:
    for setting, sentence in (
        ("rounds=-1", "Expected `rounds` >= 0, got -1."),
        ("reach=0.5", "Expected `reach` >= 1 and finite, got 0.5."),
        ("tolerance=0", "Expected `tolerance` in (0, 1), got 0.0."),
        ("bounds=[]", "Expected `bounds` to be some of global, local"),
        ("bounds=[globl]", "Expected a bound, one of"),
        ("epsilon=[0.1,0.2]", "Expected one `epsilon`"),
        ("limit=0", "Expected `limit` >= 1"),
        ("checkpoint=absent.ckpt", "absent.ckpt: no such file"),
    ):
        code, _, stderr = measure(*([] if setting.startswith("checkpoint") else [OWN]), "output=none", setting)
        assert code == 1
        assert sentence in stderr


def test_a_refuted_certificate_is_not_written(measure: Command, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "refutations", lambda *arguments: ["image 3 is certified, and broken"])
    code, _, stderr = measure(OWN, *QUICK, "output=refuted", "bounds=[global]", "convergence_images=0")
    assert code == 1
    assert "Refuted: image 3 is certified, and broken" in stderr
    assert contents(home / "refuted") == {}


def test_report_measures_what_was_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "run")
    _write_checkpoint(tmp_path / "run")
    (write_run(tmp_path / "broken", seed=1) / "checkpoints").mkdir()
    (tmp_path / "broken" / "checkpoints" / "last.ckpt").write_bytes(b"nothing")
    report([str(tmp_path), "--output", str(tmp_path / "report"), "--png", "none", "--measure", "--limit", "4"])
    measured = read_measurement(tmp_path / "run" / "measurements" / "last")
    assert len(measured.images) == 4
    page = Page((tmp_path / "report" / "report.html").read_text())
    assert len(page.tables["Certified accuracy against ε"]) == 14
    assert "broken was not measured" in capsys.readouterr().err
