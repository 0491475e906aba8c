"""What stands beside the code agrees with it: version, licence, citation, make targets, hooks."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from lipcert import __version__

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = MAKEFILE.partition(".PHONY:")[2].splitlines()[0].split()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())


def test_the_version_comes_from_one_place() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)
    assert PROJECT["project"]["dynamic"] == ["version"]
    written = (ROOT / PROJECT["tool"]["hatch"]["version"]["path"]).read_text()
    assert f'__version__ = "{__version__}"' in written
    assert CITATION["version"] == __version__


def test_citation() -> None:
    """The fields that the format demands, of the software and of the paper."""
    assert CITATION["cff-version"] == "1.2.0"
    assert all(CITATION[key] for key in ("message", "title", "authors"))
    assert CITATION["license"] == PROJECT["project"]["license"]
    (paper,) = CITATION["references"]
    assert paper["title"] == "Training Certifiably Robust Neural Networks with Efficient Local Lipschitz Bounds"
    assert [each["family-names"] for each in paper["authors"]] == ["Huang", "Zhang", "Shi", "Kolter", "Anandkumar"]
    assert all(paper[key] for key in ("type", "year", "url"))


def test_licence() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0" in text
    assert PROJECT["project"]["license"] == "Apache-2.0"


def test_changelog_keeps_its_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[(.+?)\]", text, re.MULTILINE)
    assert versions[0] == "Unreleased"
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", each) for each in versions[1:])
    assert __version__ in versions or "the first version will be " + __version__ in text
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= kinds


def test_make_help_lists_every_target() -> None:
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    listed = {line.split()[0]: line.split(maxsplit=1)[1] for line in shown.splitlines()}
    assert list(listed) == TARGETS
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert set(TARGETS) == set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))


@pytest.mark.parametrize("hook", HOOKS["repos"][0]["hooks"], ids=lambda hook: hook["id"])
def test_hooks_are_local_and_call_make(hook: dict[str, str]) -> None:
    assert [each["repo"] for each in HOOKS["repos"]] == ["local"]
    assert hook["language"] == "system"
    make, target = hook["entry"].split()
    assert (make, target in TARGETS) == ("make", True)


def test_hooks_are_what_tests_demand() -> None:
    demanded = re.search(r"^test: install (.*?) ##", MAKEFILE, re.MULTILINE)
    assert demanded is not None
    assert {hook["id"] for hook in HOOKS["repos"][0]["hooks"]} == set(demanded[1].split())
    command = [sys.executable, "-m", "pre_commit", "validate-config", ".pre-commit-config.yaml"]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0
