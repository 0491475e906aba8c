"""Modules that a user names: found as `python -m` finds them, the working directory included."""

import hashlib
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType


def look_here() -> None:
    """Let modules be found in the working directory, as `python -m` does."""
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())


def import_from_here(name: str) -> ModuleType:
    """Import a module from the working directory or the environment."""
    look_here()
    return importlib.import_module(name)


def load_plugins(names: Sequence[str]) -> None:
    """Import modules that add to lipcert (layers, activations, data sets) before anything is looked up by name.

    Raises:
        ValueError: naming the module that cannot be imported.
    """
    for name in names:
        try:
            import_from_here(name)
        except ImportError as error:
            raise ValueError(
                f"plugins={name} cannot be imported: {error}. Give modules of the working directory or of installed "
                "packages, without .py: plugins=[my_module]."
            ) from error


def plugins_sha256(names: Sequence[str]) -> dict[str, str]:
    """Return by name the SHA-256 of the source of plugins that are loaded: a module's file, all files of a package."""
    digests = {}
    for name in names:
        module, digest = sys.modules[name], hashlib.sha256()
        folders = [Path(each) for each in getattr(module, "__path__", ())]
        files = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
        for path in [Path(module.__file__)] if module.__file__ and not folders else files:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        digests[name] = digest.hexdigest()
    return digests
