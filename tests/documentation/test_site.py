"""The documentation site: built strictly and without a network, complete, nothing fetched from elsewhere."""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import yaml

from lipcert.system import schema
from tests.documentation.pages import PAGES, ROOT

LOADED = re.compile(r"<(?:script|img|iframe|source|video|link)\b[^>]*?\b(?:src|href)=[\"']?([^\"' >]+)")
"""What a page loads by itself."""


@pytest.fixture(scope="module", name="site")
def fixture_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, **proxies, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr[-5000:]
    return folder


def _navigation() -> set[str]:
    def leaves(part: object) -> list[str]:
        if isinstance(part, str):
            return [part]
        values = part.values() if isinstance(part, dict) else typing.cast("list[object]", part)
        return [leaf for each in values for leaf in leaves(each)]

    return set(leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))


def test_every_page_is_in_the_navigation() -> None:
    pages = {page.removeprefix("docs/") for page in PAGES if page.startswith("docs/")}
    assert pages - _navigation() == set(), "add these to nav in mkdocs.yml"


def test_every_experiment_is_on_the_site(site: Path) -> None:
    home = (site / "index.html").read_text()
    for page in PAGES:
        if page.startswith("experiments/"):
            assert (site / page).with_name("index.html").exists()
            assert f'href="{Path(page).parent.as_posix()}/index.html"' in home, "the navigation links it"


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 50
    for page in pages:
        loaded = LOADED.findall(page.read_text())
        assert any(each.endswith(".css") for each in loaded)
        assert [each for each in loaded if re.match(r"(https?:)?//", each)] == [], page


@pytest.mark.parametrize(
    "name", ["", "nn", "bounds", "certificates", "losses", "data", "attacks", "records", "recheck"]
)
def test_the_reference_has_every_public_name(site: Path, name: str) -> None:
    package = f"lipcert.{name}" if name else "lipcert"
    reference = "".join(page.read_text() for page in (site / "reference").glob("*.html"))
    module = importlib.import_module(package)
    names = [each for each in module.__all__ if callable(getattr(module, each))]
    missing = [each for each in names if not re.search(rf'id="{package}[.\w]*\.{each}"', reference)]
    assert missing == []


def _meanings(section: str) -> dict[str, str]:
    """Return the last cell of each row of a section by its key."""
    found: dict[str, str] = {}
    for row in re.findall(r"<tr>(.*?)</tr>", section, re.DOTALL):
        cells = [re.sub(r"<[^>]+>", "", cell).strip() for cell in re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)]
        keys = [cell for cell in cells[:2] if re.fullmatch(r"[a-z_]+(\.[a-z_]+)*", cell)]
        found |= {keys[0]: cells[-1]} if keys else {}
    return found


def _keys(section: type, prefix: str = "") -> list[str]:
    """Return the keys of a dataclass of the schema, those of nested ones included; `name` is the option."""
    keys: list[str] = []
    for name, hint in typing.get_type_hints(section).items():
        if dataclasses.is_dataclass(hint):
            keys += _keys(typing.cast("type", hint), f"{prefix}{name}.")
        elif name != "name" and not (section is schema.TrainConfig and hint is typing.Any):
            keys.append(f"{prefix}{name}")
    return keys


@pytest.mark.parametrize(
    ("heading", "section"),
    [
        ("train", schema.TrainConfig),
        ("certify", schema.CertifyConfig),
        ("soundness", schema.SoundnessConfig),
        ("audit", schema.AuditConfig),
        ("benchmark", schema.BenchmarkConfig),
    ],
)
def test_every_setting_is_explained(site: Path, heading: str, section: type) -> None:
    parts = re.split(r'<h2 id="(\w+)[^"]*"', (site / "configuration.html").read_text())
    meanings: dict[str, str] = {}
    for name, part in zip(parts[1::2], parts[2::2], strict=True):
        meanings |= _meanings(part) if name == heading else {}
    keys = [
        key for key in _keys(section) if heading == "train" or "." not in key
    ]  # data. and model. are those of train
    assert len(keys) > 10
    assert [key for key in keys if not meanings.get(key)] == [], "say what it is, in a comment beside it in conf/"
