"""The documentation site: built strictly and without a network, complete, nothing fetched from elsewhere."""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
import subprocess
import sys
import typing
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from lipcert import config as schema
from tests.documentation.pages import PAGES, ROOT

NOT_CONFIGURED = ("data_root", "limit")
"""Keys of `TrainedNetworkConfig` that soundness and certify share."""


class Links(HTMLParser):
    """Collects what a page loads by itself, and the text of its cells."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        if tag in ("script", "img", "iframe", "source", "video"):
            self.loaded += [values[key] or "" for key in ("src", "srcset") if key in values]
        elif tag == "link" and "canonical" not in (values.get("rel") or ""):
            self.loaded.append(values.get("href") or "")


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
        links = Links()
        links.feed(page.read_text())
        assert links.loaded
        assert [each for each in links.loaded if re.match(r"(https?:)?//", each)] == [], page


@pytest.mark.parametrize(
    "name", ["", "nn", "bounds", "certificates", "losses", "data", "attacks", "records", "recheck"]
)
def test_the_reference_has_every_public_name(site: Path, name: str) -> None:
    package = f"lipcert.{name}" if name else "lipcert"
    page = (site / "reference" / f"{name or 'lipcert'}.html").read_text()
    module = importlib.import_module(package)
    names = [each for each in module.__all__ if callable(getattr(module, each)) and each != "certify"]
    missing = [each for each in names if f'id="{package}.{each}"' not in page]
    assert missing == []


def _cells(page: str) -> dict[str, str]:
    """Return the last cell of each row by its key."""
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    found: dict[str, str] = {}
    for each in rows:
        cells = [re.sub(r"<[^>]+>", "", cell).strip() for cell in re.findall(r"<td[^>]*>(.*?)</td>", each, re.DOTALL)]
        keys = [cell for cell in cells[:2] if re.fullmatch(r"[a-z_]+(\.[a-z_]+)*", cell)]
        if keys:
            found[keys[-1] if "=" in cells[0] else keys[0]] = cells[-1]
    return found


def _keys() -> list[str]:
    keys: list[str] = []
    for name, hint in typing.get_type_hints(schema.TrainConfig).items():
        if dataclasses.is_dataclass(hint):
            keys += [f"{name}.{each.name}" for each in dataclasses.fields(hint) if each.name != "name"]
        elif hint is not typing.Any:
            keys.append(name)
    for section in (schema.CertifyConfig, schema.SoundnessConfig, schema.BenchmarkConfig):
        keys += [each.name for each in dataclasses.fields(section) if each.name not in ("data", "model")]
    return keys


def test_every_setting_is_explained(site: Path) -> None:
    cells = _cells((site / "configuration.html").read_text())
    assert cells["schedule.epochs"] == "in all"
    assert [key for key in _keys() if not cells.get(key)] == [], (
        "say what it is, in a comment beside its default in conf/"
    )
