"""Calls `lipcert.train` for every request on stdin, in one process: importing what a run needs takes seconds.

A request is a line of JSON with a folder to work in and arguments. The reply, with exit code, stdout and stderr, stands
behind a mark, since what is printed in between may come from anywhere.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import traceback
from typing import Any

from hydra.core.global_hydra import GlobalHydra

from lipcert.commands.train import main

MARK = "reply: "


def request(arguments: list[str], folder: object) -> str:
    """Return the line that asks for a run."""
    return json.dumps({"folder": str(folder), "arguments": arguments}) + "\n"


def run(arguments: list[str]) -> dict[str, Any]:
    """Return how the command line ends."""
    GlobalHydra.instance().clear()
    sys.argv = ["lipcert.train", *arguments]
    output, errors = io.StringIO(), io.StringIO()
    code: Any = 0
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(output):
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        except BaseException:
            code = 1
            traceback.print_exc()
    return {"exit": code or 0, "stdout": output.getvalue(), "stderr": errors.getvalue()}


if __name__ == "__main__":
    for line in sys.stdin:
        asked = json.loads(line)
        os.chdir(asked["folder"])
        sys.stdout.write(f"\n{MARK}{json.dumps(run(asked['arguments']))}\n")
        sys.stdout.flush()
