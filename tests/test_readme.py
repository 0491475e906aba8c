"""What the README shows works: its Python runs, its training commands compose, its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from lipcert.config import config_folder, register

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^python -m lipcert\.(train|certify|soundness)(.*?)(?:#.*)?$", README, re.MULTILINE)


def test_python_example_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    namespace: dict[str, object] = {}
    exec(code, namespace)
    assert namespace["certificate"].certified.shape == (8,)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("command", "arguments"), COMMANDS)
def test_commands_compose(command: str, arguments: str) -> None:
    register()
    choices = [each.split("=", 1) for each in arguments.split() if not each.startswith("-")]
    with initialize_config_dir(config_folder(), version_base="1.3"):
        for position in (0, -1):  # of a sweep: all first values, all last values
            compose(command, overrides=[f"{key}={values.split(',')[position]}" for key, values in choices])


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make (\w+)`?", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
