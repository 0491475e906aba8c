"""Calls `lipcert.train` once for each list of arguments on stdin; writes exit codes and stderr as JSON."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import traceback
from typing import Any

from hydra.core.global_hydra import GlobalHydra

from lipcert.train import main


def run(arguments: list[str]) -> dict[str, Any]:
    """Return how the command line ends."""
    GlobalHydra.instance().clear()
    sys.argv = ["lipcert.train", *arguments]
    errors = io.StringIO()
    code: Any = 0
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        except BaseException:
            code = 1
            traceback.print_exc()
    return {"exit": code, "stderr": errors.getvalue()}


if __name__ == "__main__":
    results = [run(arguments) for arguments in json.load(sys.stdin)]
    sys.stdout.write("\n" + json.dumps(results) + "\n")
