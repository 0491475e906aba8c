"""What to say of a file that cannot be read."""

from __future__ import annotations


class UnreadableError(ValueError):
    """A file of a run that is missing or damaged; the report goes on without it."""


def reason(error: BaseException) -> str:
    """Return an error's reason in a few words, on one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, KeyError):
        return f"no {error}"
    return " ".join(str(error).split()) or type(error).__name__
