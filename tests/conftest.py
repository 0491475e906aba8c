"""How `make test` spreads the suite over processes: a thread each, files that start processes of their own first."""

from __future__ import annotations

import gc
import logging
import os

import pytest

from tests.composed import keep_what_is_composed
from tests.forks import SERVER, server_address

STARTERS = ("tests.running", "tests.train_each")
"""Modules whose functions start commands: files that use them take longest, and must not be left for the end."""

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported


def pytest_configure(config: pytest.Config) -> None:
    keep_what_is_composed()
    if getattr(config.option, "numprocesses", None):
        os.environ[SERVER] = server_address()  # all processes of the suite fork from one


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort files, not the tests inside them; all processes must agree on the order."""
    items.sort(key=lambda item: not _starts_processes(item))


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what is imported: half a million objects, a third of a second each time."""
    gc.collect()
    gc.freeze()
    _let_loggers_propagate()


def _let_loggers_propagate() -> None:
    """Spare pytest sixty loggers of torch, each of which would get its handlers three times a test."""
    for logger in logging.getLogger().manager.loggerDict.values():
        if isinstance(logger, logging.Logger) and logger.name.startswith("torch"):
            logger.propagate = True


def _starts_processes(item: pytest.Item) -> bool:
    assert isinstance(item, pytest.Function)
    return any(getattr(value, "__module__", None) in STARTERS for value in vars(item.module).values())
