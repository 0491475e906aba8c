"""The version, in one place, and the commit of a checkout."""

import subprocess
from pathlib import Path

__version__ = "0.1.0"


def commit() -> str | None:
    """Return the commit of the repository that lipcert is executed from, None where it is an installed package."""
    top = Path(__file__).resolve().parents[1]
    if not (top / ".git").exists():
        return None
    try:
        asked = ["git", "-C", str(top), "rev-parse", "HEAD"]
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
