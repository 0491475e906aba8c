"""The pages of the documentation, and the blocks of code on them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PAGES = (
    "README.md",
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")),
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "experiments").glob("*/README.md")),
)
"""By path from the repository's root."""

FENCE = re.compile(r"^```(\w*) *(.*)$")
TITLE = re.compile(r'title="([^"]+)"')
COMMAND = re.compile(
    r"(\w+=\S+ )*(python|make|pip|torchrun|srun|export|wandb|tensorboard|bash|cd|git|apt|lipcert-\w+) "
)


@dataclass(frozen=True)
class Block:
    """A block of code: its language, the file it is (or None), its text, the line of the page it starts on."""

    language: str
    title: str | None
    text: str
    line: int


def blocks(page: str) -> list[Block]:
    """Return the fenced blocks of a page, and indented ones that hold commands."""
    lines = (ROOT / page).read_text().splitlines()
    found: list[Block] = []
    number = 0
    while number < len(lines):
        fence, start = FENCE.match(lines[number]), number
        if fence is not None:
            end = next(each for each in range(number + 1, len(lines)) if lines[each].startswith("```"))
            title = TITLE.search(fence[2])
            text = "\n".join(lines[start + 1 : end])
            found.append(Block(fence[1], title[1] if title else None, text, start + 2))
            number = end + 1
        elif lines[number].startswith("    ") and COMMAND.match(lines[number].strip() + " "):
            while number < len(lines) and lines[number].startswith("    "):
                number += 1
            text = "\n".join(line[4:] for line in lines[start:number])
            found.append(Block("bash", None, text, start + 1))
        else:
            number += 1
    return found


def commands(block: Block) -> Iterator[tuple[int, str]]:
    """Yield the commands of a block and the lines they stand on; lines that end with a backslash go on."""
    pending, first = "", block.line
    for line, text in enumerate(block.text.splitlines(), start=block.line):
        first = first if pending else line
        pending += text.strip()
        if pending.endswith("\\"):
            pending = pending[:-1]
            continue
        if pending and not pending.startswith("#"):
            yield first, pending
        pending = ""
