"""README.md: its parts, and its links; its commands run with those of the other pages."""

from __future__ import annotations

import re

import pytest

from tests.documentation.pages import PAGES, ROOT

README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", (ROOT / page).read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\((?!https?:|#)([^)#\s]+)[^)]*\)", text):
        assert ((ROOT / page).parent / link).exists(), f"{page}: {link}"


def test_every_experiment_is_linked() -> None:
    results = (ROOT / "docs" / "experiments.md").read_text()
    for page in PAGES:
        if page.startswith("experiments/"):
            assert f"({page})" in README
            assert f"(../{page})" in results


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make (\w+)`?", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
