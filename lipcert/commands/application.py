"""What all command lines share: errors as one sentence, exit codes, the entry points of Hydra applications."""

import importlib
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from lipcert.system.errors import EXPECTED_ERRORS, Interrupted, sentence_of
from lipcert.version import __version__

_LIST = re.compile(r"^(epsilon=(?=.*,)|stages=(?!null$))([^\[\](){}'\"]+)$")
"""Settings that take lists: several radii with commas between, or one stage and more."""

_OWN_MODEL = re.compile(r"\+{0,2}model\.(builder|_target_)=")

VERSION = "--version"


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
        with ending_in_a_refusal(stopped):  # before Hydra tells which job it was
            return importlib.import_module(f"lipcert.jobs.{name}").run(config)

    def main() -> None:
        words = sys.argv[1:]
        if VERSION in words:
            print(f"lipcert {__version__}")
            return
        import hydra

        from lipcert.system.configuration import config_folder, register
        from lipcert.system.help import asks_for_help, usage
        from lipcert.system.overrides import for_hydra

        register()
        words = with_own_model(words)
        if name != "train":
            words = with_path(words)
        sys.argv[1:] = for_hydra(with_lists(words) if lists else words)
        if asks_for_help(words):
            print(usage(Path(config_folder()), name))
            return
        run_command(hydra.main(version_base="1.3", config_path=config_folder(), config_name=name)(job), stopped)

    return main


def with_lists(words: Sequence[str]) -> list[str]:
    """Return a command line with `epsilon=0.1,0.25` as `epsilon=[0.1,0.25]` and the like; in a sweep, as it is."""
    if any(each in ("-m", "hydra.mode=MULTIRUN") or each.startswith("--mu") for each in words):
        return list(words)
    return [_LIST.sub(r"\1[\2]", each) for each in words]


def with_path(words: Sequence[str]) -> list[str]:
    """Return a command line whose first word, a path of a checkpoint or a run, is that of `checkpoint`."""
    from lipcert.system.overrides import quoted

    first = words[0] if words else "-"
    if first.startswith("-") or ("=" in first and not Path(first).expanduser().exists()):
        return list(words)
    return [f"checkpoint={quoted(first)}", *words[1:]]


def with_own_model(words: Sequence[str]) -> list[str]:
    """Return a command line that names what builds its network with `model=own`, unless it chooses a `model`, too."""
    named = any(_OWN_MODEL.match(each) for each in words)
    return [*words, "model=own"] if named and not any(each.startswith("model=") for each in words) else list(words)


def ending_in_a_refusal(stopped: str) -> AbstractContextManager[None]:
    """Return `ending_in_a_sentence` for a Hydra application: its own errors are expected ones, too."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from lipcert.commands.refusals import refusal

    return ending_in_a_sentence(stopped, (HydraException, OmegaConfBaseException, *EXPECTED_ERRORS), refusal)


def run_command(command: Callable[[], Any], stopped: str = "Stopped.") -> None:
    """Run a Hydra application, decorated by `hydra.main`."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let errors through to here
    try:
        with ending_in_a_refusal(stopped):
            command()
    except Interrupted as stop:
        print(f"error: {stop.message}", file=sys.stderr)
        raise
