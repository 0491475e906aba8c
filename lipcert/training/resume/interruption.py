"""Runs that end early: by a signal, at once and with its exit code; in either case saying how to go on.

Lightning's own handlers let the processes of a run wait for each other, in mid-step for ever; `HeedSignals` takes their
place.
"""

import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from pytorch_lightning.utilities.exceptions import SIGTERMException

from lipcert.system.errors import Interrupted
from lipcert.system.overrides import quoted
from lipcert.training.processes import is_first_process
from lipcert.training.resume.starting_point import CONFIGURATION, typed_again

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def how_to_go_on(folder: Path) -> str:
    """Return the sentence with the command that goes on with the run of this process."""
    if not is_first_process():
        return ""  # the first rank says it for all
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN:
        place = shlex.quote(f"hydra.sweep.dir={quoted(hydra.sweep.dir)}")
        return f"To go on, start the same sweep again with {place}."
    return f"To go on: {typed_again(f'hydra.run.dir={quoted(str(folder))}', 'resume=auto')}"


@contextmanager
def interruptible(folder: Path) -> Iterator[None]:
    """End at once at SIGTERM and SIGINT, saying how to go on; so do errors of the operating system in a run's `folder`.

    What is on disk is a good state at any time, so that nothing has to be finished first.

    Raises:
        Interrupted: after a signal.
    """

    advice = how_to_go_on(folder)

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number, advice)

    main = threading.current_thread() is threading.main_thread()
    heeded = [each for each in SIGNALS if main and signal.getsignal(each) is not signal.SIG_IGN]
    before: dict[signal.Signals, Any] = {each: signal.signal(each, stop) for each in heeded}
    try:
        yield
    except SIGTERMException as error:  # Lightning's, between two batches
        raise Interrupted(signal.SIGTERM, advice) from error
    except OSError as error:
        if (folder / CONFIGURATION).exists():  # else it was refused, and would be again
            error.add_note(advice)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class HeedSignals(pl.Callback):
    """Puts the handlers that are set when it is made back in place of those that Lightning sets before training.

    The processes that Lightning started are ended first: none of them writes, and none must wait for this one.
    """

    def __init__(self) -> None:
        main = threading.current_thread() is threading.main_thread()
        self._handlers = {each: signal.getsignal(each) for each in SIGNALS} if main else {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        launcher = trainer.strategy.launcher

        def stop(number: int, frame: FrameType | None) -> None:
            if launcher is not None and hasattr(launcher, "kill"):
                launcher.kill(signal.SIGKILL)
            handler = self._handlers[signal.Signals(number)]
            if callable(handler):
                handler(number, frame)

        for number, handler in self._handlers.items():
            signal.signal(number, stop if callable(handler) else handler)
