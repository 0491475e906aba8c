"""Command lines of Python in forks of a process that has imported what they need: importing takes seconds."""

from __future__ import annotations

import atexit
import importlib
import io
import os
import runpy
import signal
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from multiprocessing import Pipe, forkserver, get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

PATIENCE = 900
"""Seconds after which a process that hangs is ended."""

REPOSITORY = Path(__file__).resolve().parents[1]

SERVER = "TESTS_FORK_FROM"
"""Environment variable: the address of the process to be forked, where another one has started it."""

STAND_IN = "TESTS_STAND_IN"
"""Environment variable: what a fork takes for the interpreter, see `tests.stand_in`."""


class Fork:
    """A running `python -m MODULE ...` or `python -c PROGRAM ...`.

    All forks share what was imported before them, so what a command imports is tested in a new interpreter instead.
    """

    def __init__(self, *arguments: str, cwd: Path, environment: dict[str, str], stdin: str = "") -> None:
        self._arguments = arguments
        receivers, senders = zip(*(Pipe(duplex=False) for _ in ("output", "errors")), strict=True)
        given = (arguments, str(cwd), environment, stdin, senders)
        self._process = fork_context().Process(target=_execute, args=given)
        self._process.start()
        for sender in senders:
            sender.close()
        readers = ThreadPoolExecutor(len(receivers))
        self._streams = [readers.submit(_read, receiver) for receiver in receivers]
        readers.shutdown(wait=False)

    @property
    def pid(self) -> int | None:
        """The number of the process."""
        return self._process.pid

    def has_ended(self) -> bool:
        """Whether there is an exit code."""
        return self._process.exitcode is not None

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()

    def wait(self) -> subprocess.CompletedProcess[str]:
        """Return how it ended and what it wrote, once processes that it started have closed these streams too.

        An exit code below 0 is that of a signal.
        """
        self._process.join(PATIENCE)
        if not self.has_ended():
            self.kill()
            self._process.join()
        output, errors = (stream.result(PATIENCE) for stream in self._streams)
        assert self._process.exitcode is not None
        return subprocess.CompletedProcess(list(self._arguments), self._process.exitcode, output, errors)


def _read(receiver: Connection) -> str:
    with receiver, open(receiver.fileno(), errors="replace", closefd=False) as stream:
        return stream.read()


def server_address() -> str:
    """Return the address of the process to be forked, started if need be."""
    fork_context()
    return str(vars(forkserver._forkserver)["_forkserver_address"])  # type: ignore[attr-defined]


def stand_in() -> dict[str, str]:
    """Return the environment in which the interpreters that a fork starts are forks, too."""
    script = REPOSITORY / "tests" / "forked_python"
    return {STAND_IN: str(script), "TESTS_INTERPRETER": sys.executable, SERVER: server_address()}


@cache
def fork_context() -> ForkServerContext:
    """Start the process to be forked; it reads `PYTHONPATH` when it starts, and imports with a thread."""
    context = get_context("forkserver")
    if SERVER in os.environ:
        started = {"_forkserver_address": os.environ[SERVER], "_forkserver_alive_fd": os.pipe()[1]}
        vars(forkserver._forkserver).update(started, ensure_running=lambda: None)  # type: ignore[attr-defined]
        return context
    context.set_forkserver_preload(["tests.preloaded"])
    before = dict(os.environ)
    os.environ.update(PYTHONPATH=str(REPOSITORY), PYTHONWARNINGS="ignore", OMP_NUM_THREADS="1")
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


def execute_for_parent(*given: Any) -> None:
    """Do so as long as the process that has asked for it lives."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _execute(*given)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _execute(
    arguments: tuple[str, ...], cwd: str, environment: dict[str, str], stdin: str, streams: tuple[Connection, ...]
) -> None:
    """Do in this process what a new interpreter would do."""
    from lightning_fabric.utilities.rank_zero import _get_rank, rank_zero_only

    importlib.import_module("tests.preloaded")  # an error of the import before the fork is raised here
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, stream in enumerate(streams, start=1):
        os.dup2(stream.fileno(), number)
        stream.close()
    sys.stdin = io.StringIO(stdin)
    os.environ.clear()
    os.environ.update(environment)
    vars(rank_zero_only)["rank"] = _get_rank() or 0  # Lightning reads it when it is imported
    os.chdir(cwd)
    warnings.simplefilter("ignore")
    sys.path[:0] = [cwd, *environment.get("PYTHONPATH", "").split(os.pathsep)]
    sys.executable = environment.get(STAND_IN, sys.executable)
    option, subject, *rest = arguments[arguments[0] == "-u" :]
    sys.argv = [option, *rest]
    try:
        if option == "-m":
            runpy.run_module(subject, run_name="__main__", alter_sys=True)
        else:
            exec(compile(subject, "<string>", "exec"), {"__name__": "__main__"})
    finally:  # as an interpreter ends: threads first
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
