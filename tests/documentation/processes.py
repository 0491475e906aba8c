"""Commands of the documentation in forks of this process: what is imported already need not be imported again."""

from __future__ import annotations

import os
import runpy
import sys
import traceback
from collections.abc import Callable
from typing import Any


class CommandError(Exception):
    """A command of the documentation that does not work, with the reason."""


def in_a_process(action: Callable[[], object], name: str) -> str:
    """Fork, act, and return the output; what is imported already need not be imported again.

    Raises:
        CommandError: with the output, for an exit code other than 0.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code: Any = 1
        try:
            os.close(read)
            os.dup2(write, 1)
            os.dup2(write, 2)
            action()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code if isinstance(code, int) else 1)
    os.close(write)
    with os.fdopen(read, errors="replace") as pipe:
        output = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status):
        raise CommandError(f"{name} ended with {os.waitstatus_to_exitcode(status)}: {output[-2000:]}")
    return output


def run_module(words: list[str], *more: str) -> str:
    """Run `python -m MODULE ARGUMENTS`; return what it prints."""
    module, arguments = words[2], [*words[3:], *more]

    def run() -> None:
        sys.argv = [module, *arguments]
        sys.path.insert(0, os.getcwd())  # as `python -m` does
        runpy.run_module(module, run_name="__main__", alter_sys=True)

    return in_a_process(run, " ".join([module, *arguments]))
