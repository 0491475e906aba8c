"""What all command lines share: errors as one sentence, exit codes, the entry points of Hydra applications."""

import importlib
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from lipcert.system.errors import EXPECTED_ERRORS, NO_ROOM, Interrupted, sentence_of

_LIST = re.compile(r"^(epsilon=(?=.*,)|stages=(?!null$))([^\[\](){}'\"]+)$")
"""Settings that take lists: several radii with commas between, or one stage and more."""


@contextmanager
def ending_in_a_sentence(
    stopped: str = "Stopped.",
    errors: tuple[type[Exception], ...] = EXPECTED_ERRORS,
    sentence: Callable[[BaseException], str] = sentence_of,
) -> Iterator[None]:
    """Exit with a sentence on standard error: code 1 at an expected error, 130 at Ctrl-C.

    With the environment variable `LIPCERT_TRACEBACK` an error keeps its traceback. `stopped` is said at Ctrl-C,
    `sentence` of one of the expected `errors`.
    """
    try:
        yield
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except errors as error:
        if os.environ.get("LIPCERT_TRACEBACK"):
            raise
        print(f"error: {sentence(error)}", file=sys.stderr)
        sys.exit(1)


def application(name: str, stopped: str = "Stopped.", lists: bool = False) -> Callable[[], None]:
    """Return the entry point of a Hydra application: `conf/NAME.yaml`, whose job is `lipcert.jobs.NAME.run`.

    Args:
        name: of the command; its job is imported when it is to run, and not for `--help`.
        stopped: what to say at Ctrl-C.
        lists: `epsilon` and `stages` may be lists without brackets, see `with_lists`.
    """

    def job(config: Any) -> Any:
        from lipcert.system.configuration import register

        register()  # a launcher's processes know no resolvers
        return importlib.import_module(f"lipcert.jobs.{name}").run(config)

    def main() -> None:
        import hydra

        from lipcert.system.configuration import config_folder, register
        from lipcert.system.help import asks_for_help, usage
        from lipcert.system.overrides import with_open_keys

        register()
        sys.argv[1:] = with_open_keys(with_lists(sys.argv[1:]) if lists else sys.argv[1:])
        if asks_for_help(sys.argv[1:]):
            print(usage(Path(config_folder()), name))
            return
        run_command(hydra.main(version_base="1.3", config_path=config_folder(), config_name=name)(job), stopped)

    return main


def with_lists(words: Sequence[str]) -> list[str]:
    """Return a command line with `epsilon=0.1,0.25` as `epsilon=[0.1,0.25]` and the like; in a sweep, as it is."""
    if any(each in ("-m", "hydra.mode=MULTIRUN") or each.startswith("--mu") for each in words):
        return list(words)
    return [_LIST.sub(r"\1[\2]", each) for each in words]


def run_command(command: Callable[[], Any], stopped: str = "Stopped.") -> None:
    """Run a Hydra application, decorated by `hydra.main`; its own errors are expected ones, too."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let errors through to here
    try:
        with ending_in_a_sentence(stopped, (HydraException, OmegaConfBaseException, *EXPECTED_ERRORS), _message):
            command()
    except Interrupted as stop:
        print(f"error: {stop.message}", file=sys.stderr)
        raise


def _message(error: BaseException) -> str:
    """Return an error's sentence and the notes added to it; Hydra's advice to add an unknown setting is left out."""
    from hydra.errors import HydraException
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

    from lipcert.system.configuration import unknown_setting

    if isinstance(error, HydraException | OmegaConfBaseException):
        cause = error.__cause__
        if isinstance(cause, ConfigAttributeError | ConfigKeyError) and is_dataclass(cause.object_type):
            return unknown_setting(str(cause.full_key), cause.object_type)
        return f"{error} ({cause})" if cause is not None and str(cause) not in str(error) else str(error)
    message = sentence_of(error)
    if isinstance(error, OSError) and error.strerror and error.filename:
        room = "Make room; what was written before is kept."
        message += f" {room if error.errno in NO_ROOM else 'Choose another folder (hydra.run.dir=...) or file.'}"
    return " ".join([message, *getattr(error, "__notes__", [])])
