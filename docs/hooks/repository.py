"""Links into the repository work on the site as well: what a page links outside docs/ becomes part of the site.

A README below experiments/ becomes a page, Python and YAML become highlighted pages, a folder becomes a list of its
files, anything else is copied. Pages stay as they are in the repository; links are rewritten while the site is built.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^(```.*?^```|(?: {4}[^\n]*\n)+)", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"(`[^`\n]+`)")
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?\)")
SHOWN_AS_CODE = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".sh": "bash"}
UNSEARCHED = "---\nsearch:\n  exclude: true\n---\n\n"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put every experiment into the navigation, by title."""
    pages = [{_title(readme): readme.relative_to(ROOT).as_posix()} for readme in _readmes()]
    for section in config.nav or []:
        if isinstance(section, dict) and "Results" in section:
            section["Results"].extend(pages)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the experiments' pages, and everything that a page links outside docs/."""
    for readme in _readmes():
        _add(files, config, readme)
    for page in [file for file in files if file.is_documentation_page() and file.abs_src_path]:
        source = _in_repository(page.src_uri)
        for target in _targets((ROOT / source).read_text(), source):
            _add(files, config, ROOT / target)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to where their targets are on the site."""
    if page.file.abs_src_path is None:  # made by this hook
        return markdown
    source = _in_repository(page.file.src_uri)
    folder = posixpath.dirname(page.file.src_uri)

    def rewritten(link: re.Match[str]) -> str:
        place = _on_site(_resolved(link[1], source))
        return f"]({posixpath.relpath(place, folder or '.')}{link[2] or ''})"

    return _outside_code(markdown, lambda text: LINK.sub(rewritten, text))


def _readmes() -> list[Path]:
    return sorted((ROOT / "experiments").glob("*/README.md"))


def _title(page: Path) -> str:
    return page.read_text().splitlines()[0].removeprefix("# ")


def _in_repository(src_uri: str) -> str:
    return src_uri if src_uri.startswith("experiments/") else f"docs/{src_uri}"


def _resolved(link: str, source: str) -> str:
    """Return a link's target, a path in the repository, for a link on the page `source`."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))


def _on_site(target: str) -> str:
    """Return where a file or folder of the repository is on the site, as a source path of MkDocs."""
    if target == "README.md":
        return "index.md"
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    path, place = ROOT / target, target.replace("/.", "/")  # MkDocs leaves out names with a dot
    if path.is_dir():
        return f"{place}/README.md" if (path / "README.md").exists() else f"{place}/index.md"
    return f"{place}.md" if path.suffix in SHOWN_AS_CODE else place


def _targets(markdown: str, source: str) -> list[str]:
    """Return what a page links outside docs/."""
    found: list[str] = []

    def noted(text: str) -> str:
        found.extend(_resolved(link[1], source) for link in LINK.finditer(text))
        return text

    _outside_code(markdown, noted)
    return [target for target in found if not target.startswith(("docs/", ".."))]


def _outside_code(markdown: str, change: Callable[[str], str]) -> str:
    """Apply `change` to what is neither in a block of code nor in backquotes."""
    blocks = BLOCK.split(markdown)
    for index in range(0, len(blocks), 2):
        spans = CODE.split(blocks[index])
        spans[::2] = [change(text) for text in spans[::2]]
        blocks[index] = "".join(spans)
    return "".join(blocks)


def _add(files: Files, config: MkDocsConfig, path: Path) -> None:
    """Add a file or folder of the repository; one that is not there is left to MkDocs' warnings."""
    target = path.relative_to(ROOT).as_posix()
    place = _on_site(target)
    if not path.exists() or files.get_file_from_path(place) is not None:
        return
    if path.is_dir() and place.endswith("index.md"):
        inside = sorted(each for each in path.rglob("*") if each.is_file() and each.parent.name != "__pycache__")
        names = [each.relative_to(path).as_posix() for each in inside]
        links = [f"- [{name}]({posixpath.relpath(_on_site(f'{target}/{name}'), target)})" for name in names]
        content = f"{UNSEARCHED}# {path.name}\n\n`{target}` in the repository:\n\n" + "\n".join(links) + "\n"
        files.append(File.generated(config, place, content=content))
        for each in inside:
            _add(files, config, each)
    elif path.suffix in SHOWN_AS_CODE:
        code = f"```{SHOWN_AS_CODE[path.suffix]}\n{path.read_text()}\n```\n"
        content = f"{UNSEARCHED}# {path.name}\n\n`{target}` in the repository:\n\n{code}"
        files.append(File.generated(config, place, content=content))
    else:
        files.append(File.generated(config, place, abs_src_path=str(path)))
