"""Stands in for `python` where a command starts another: forks the process that `tests.forks` forks, and waits.

Launchers that know a process by its number, as submitit does, get the interpreter itself.
"""

from __future__ import annotations

import os
import signal
import sys
from multiprocessing.connection import Connection
from types import FrameType

from tests.forks import execute_for_parent, fork_context


def main() -> None:
    """Run the command line behind `-m tests.stand_in`: pass signals on, and end with the fork's exit code."""
    streams = tuple(Connection(os.dup(number), readable=False) for number in (1, 2))
    given = (tuple(sys.argv[1:]), os.getcwd(), dict(os.environ), "", streams)
    process = fork_context().Process(target=execute_for_parent, args=given)
    process.start()

    def pass_on(number: int, frame: FrameType | None) -> None:
        os.kill(process.pid or 0, number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    process.join()
    sys.exit(process.exitcode)


if __name__ == "__main__":
    main()
