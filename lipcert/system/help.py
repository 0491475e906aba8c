"""What `--help` of the Hydra applications shows, read from the configuration files without composing them.

Hydra's own help composes the configuration and lists every group of its own twice, which takes seconds.
"""

import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from string import Template

import yaml

from lipcert.system.configuration import ROWS, read_rows

FLAGS = ("-h", "--help")

WIDEST = 100
"""Columns that are used of a wide terminal."""

_GROUP = re.compile(r"^  - (?P<key>[\w/]+): *(?P<value>\S+)(?: +# (?P<comment>.*))?$", re.MULTILINE)
_REMARK = re.compile(r"^(?P<setting>.*?\S) +# (?P<comment>.*)$")


def asks_for_help(words: Sequence[str]) -> bool:
    """Whether a command line asks for help."""
    return any(word in FLAGS for word in words)


def usage(folder: Path, name: str, columns: int | None = None) -> str:
    """Return the help of a command, as wide as the terminal, or in `columns`.

    It is the template in `hydra.help` of `folder`/`name`.yaml, with blocks of text for `$APP_CONFIG_GROUPS` and
    `$CONFIG`.
    """
    text = (folder / f"{name}.yaml").read_text(encoding="utf-8")
    said = yaml.safe_load(text)["hydra"]["help"]
    width = columns or min(WIDEST, shutil.get_terminal_size().columns)
    whole = Template(said["template"].replace("${hydra.help.header}", said["header"])).substitute(
        APP_CONFIG_GROUPS="".join(_groups(folder, text, width)), CONFIG="".join(_settings(text, width))
    )
    return "\n".join(line if line.startswith(" ") else _wrapped(line, width) for line in whole.splitlines())


def _groups(folder: Path, text: str, width: int) -> Iterator[str]:
    """Yield a paragraph a group of the defaults list, its options below it; those picked automatically are left out."""
    for group in _GROUP.finditer(text):
        key, value = group["key"], group["value"]
        default = "" if "$" in value or value == "null" else f"={value}"
        remark = f": {group['comment']}" if group["comment"] else ""
        yield _wrapped(f"{key}{default}{remark}", width, "  ", "    ") + "\n"
        yield _wrapped(", ".join(sorted(path.stem for path in (folder / key).glob("*.yaml"))), width, "      ") + "\n"
        for table in sorted(path.parent for path in (folder / key).glob(f"*/{ROWS}")):
            yield _wrapped(f"{table.name}/NAME: {', '.join(read_rows(table))}", width, "      ", "        ") + "\n"


def _settings(text: str, width: int) -> Iterator[str]:
    """Yield the file's own settings, remarks in a column of their own."""
    own = text.partition("\nhydra:")[0].partition("\n\n")[2].strip("\n")
    rows = [(line, _REMARK.match(line)) for line in own.splitlines()]
    longest = max(len(row["setting"]) for _, row in rows if row)
    for line, row in rows:
        if row is None:
            yield f"  {line}".rstrip() + "\n"
            continue
        yield _wrapped(row["comment"], width, f"  {row['setting']:<{longest}}  ", " " * (longest + 6)) + "\n"


def _wrapped(text: str, width: int, first: str = "", later: str | None = None) -> str:
    return textwrap.fill(
        text,
        width,
        initial_indent=first,
        subsequent_indent=first if later is None else later,
        break_long_words=False,
        break_on_hyphens=False,
    )
