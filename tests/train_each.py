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
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from lipcert.commands.train import main

MARK = "reply: "


def request(arguments: list[str], folder: object) -> str:
    """Return the line that asks for a run."""
    return json.dumps({"folder": str(folder), "arguments": arguments}) + "\n"


@contextlib.contextmanager
def composing_jobs_once() -> Iterator[None]:
    """Let jobs of a sweep run with the configurations that Hydra has composed to validate them, not with new ones."""
    compose = ConfigLoaderImpl.load_sweep_config
    validated: dict[tuple[str, ...], DictConfig] = {}

    def composed(loader: ConfigLoaderImpl, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        job = tuple(sweep_overrides)
        if job in validated:
            return validated.pop(job)
        return validated.setdefault(job, compose(loader, master_config, sweep_overrides))

    with patch.object(ConfigLoaderImpl, "load_sweep_config", composed):
        yield


def run(arguments: list[str]) -> dict[str, Any]:
    """Return how the command line ends."""
    GlobalHydra.instance().clear()
    sys.argv = ["lipcert.train", *arguments]
    output, errors = io.StringIO(), io.StringIO()
    code: Any = 0
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(output), composing_jobs_once():
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
