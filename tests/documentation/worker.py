"""Plays a page from top to bottom, in the folder where it is started."""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path

from tests.documentation.pages import Block, blocks, commands
from tests.documentation.rules import Place, execute


def play(page: str, folder: Path) -> list[str]:
    """Write the files of a page, run its Python and its commands; return what did not work."""
    sys.path.insert(0, str(folder))
    namespace: dict[str, object] = {"__name__": "page"}
    failures: list[str] = []
    listed = blocks(page)
    for index, block in enumerate(listed):
        rest = "\n".join(each.text for each in listed[index:])
        if block.title is not None:
            target = folder / block.title
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text + "\n")
        elif block.language == "python":
            failures += run_python(block, namespace)
        elif block.language == "bash":
            for line, command in commands(block):
                failures += run_command(command, line, Place(page, folder, rest))
    return failures


def run_python(block: Block, namespace: dict[str, object]) -> list[str]:
    """Execute a block in the namespace of the page."""
    try:
        exec(compile(block.text, f"line {block.line}", "exec"), namespace)
    except Exception:
        return [f"line {block.line}: {traceback.format_exc()}"]
    return []


def run_command(command: str, line: int, place: Place) -> list[str]:
    """Execute a command by the table of rules."""
    try:
        execute(command, place)
    except Exception as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        return [f"line {line}: {command}\n    {type(error).__name__}: {error}{cause}"]
    return []


def main() -> None:
    """Play the page that the first argument names, here; write what did not work to the file that the second names."""
    page, outcome = sys.argv[1:]
    Path(outcome).write_text(json.dumps(play(page, Path.cwd())))


if __name__ == "__main__":
    main()
