"""What all command lines share: errors as one sentence, exit codes, files that are never half-written."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

EXPECTED_ERRORS = (ValueError, OSError, NotImplementedError, ArithmeticError)
"""Errors that a user can act on; anything else is a fault of lipcert and keeps its traceback."""


def run_command(command: Callable[[], Any]) -> None:
    """Run a Hydra application; print an expected error as one message and exit with code 1."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let errors through to here
    try:
        command()
    except (HydraException, OmegaConfBaseException) as error:
        cause = error.__cause__
        _fail(error, f"{error} ({cause})" if cause is not None and str(cause) not in str(error) else str(error))
    except EXPECTED_ERRORS as error:
        _fail(error, _message(error))


def _message(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}. Choose another folder (hydra.run.dir=...) or file."
    return str(error)


def _fail(error: BaseException, message: str) -> None:
    if os.environ.get("LIPCERT_TRACEBACK"):
        raise error
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name, then rename it: readers see all of it or nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON with `write_text`; NaN is refused."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
