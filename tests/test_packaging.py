"""The wheel carries its configuration, and works without the repository."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from lipcert import __version__
from tests.running import REPOSITORY, contents, python

MAIN = """import sys
from lipcert.commands.train import main
from lipcert.system.configuration import config_folder
sys.stderr.write(config_folder() + chr(10))
main()"""


@pytest.fixture(scope="module", name="wheel")
def fixture_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    built = python("-m", "build", "--wheel", "--no-isolation", "-o", str(folder), cwd=REPOSITORY)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = folder.iterdir()
    return wheel


@pytest.fixture(scope="module", name="installed")
def fixture_installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's contents."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_wheel_holds_the_configuration_and_nothing_foreign(installed: Path) -> None:
    assert (installed / "lipcert" / "conf" / "train.yaml").is_file()
    assert list((installed / "lipcert" / "zoo" / "networks").glob("*/weights.safetensors"))
    assert contents(installed / "lipcert" / "conf") == contents(REPOSITORY / "conf")
    kinds = ("py", "html", "css", "mplstyle")
    files = {
        str(path.relative_to(REPOSITORY)) for each in kinds for path in (REPOSITORY / "lipcert").rglob(f"*.{each}")
    }
    assert "lipcert/reporting/templates/style.css" in files
    assert files <= contents(installed).keys()
    assert {path.name for path in installed.iterdir()} == {"lipcert", f"lipcert-{__version__}.dist-info"}


def test_wheel_declares_its_commands(installed: Path) -> None:
    entry_points = (installed / f"lipcert-{__version__}.dist-info" / "entry_points.txt").read_text()
    assert "lipcert-train = lipcert.commands.train:main" in entry_points


def test_the_packaged_configuration_is_used(installed: Path, tmp_path: Path) -> None:
    shown = python("-c", MAIN, "--cfg", "job", cwd=tmp_path, importing=installed)
    expected = python("-c", MAIN, "--cfg", "job", cwd=tmp_path)
    assert shown.stderr.splitlines()[0] == str(installed / "lipcert" / "conf")
    assert expected.stderr.splitlines()[0] == str(REPOSITORY / "conf")
    assert shown.returncode == expected.returncode == 0
    assert "\nbatch_size: 64\n" in shown.stdout
    assert shown.stdout == expected.stdout
