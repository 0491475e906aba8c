"""Errors that a user can act on, in one sentence, and the signal that ends a command."""

import errno
import signal
from collections.abc import Mapping

EXPECTED_ERRORS = (ValueError, OSError, NotImplementedError, ArithmeticError)
"""Errors that a user can act on; anything else is a fault of lipcert and keeps its traceback."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A full disk, a used-up quota, a file beyond the limit of its size."""


class Interrupted(SystemExit):
    """A signal ended the command; its exit code is 128 plus the signal's number, as shells have it."""

    def __init__(self, number: int, advice: str = "") -> None:
        super().__init__(128 + number)
        self.message = f"ended by {signal.Signals(number).name}. {advice}".strip()


def refuse_below(least: float, settings: Mapping[str, float | None]) -> None:
    """Raise ValueError naming the first of some settings, by name, that is below `least` or NaN; None passes."""
    for name, value in settings.items():
        if value is not None and not value >= least:
            raise ValueError(f"Expected `{name}` >= {least}, got {value}.")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, else its type."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def reason_of(error: BaseException) -> str:
    """Return an error's reason in a few words, on one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def sentence_of(error: BaseException) -> str:
    """Return an error's sentence; for a file, its name and the system's reason."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}."
    return str(error)
