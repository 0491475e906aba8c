"""`python -m lipcert.dashboard`: create the dashboard of runs in a project of Weights & Biases."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from lipcert.commands.application import ending_in_a_sentence
from lipcert.dashboard.panels import SECTIONS


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line; argparse exits with code 2 where it does not fit."""
    parser = argparse.ArgumentParser(
        prog="python -m lipcert.dashboard",
        description="Create a saved view with Lipschitz bounds, varying proportions, accuracies, schedules and results "
        "of the runs in a project of Weights & Biases.",
        epilog="Exit codes: 0 the view is there, or printed; 1 it could not be made, with the reason; 2 a command line "
        "that does not fit; 130 ended by Ctrl-C. Example: python -m lipcert.dashboard --project lipcert",
    )
    parser.add_argument("--project", default="lipcert", help="project of the runs (default: lipcert)")
    parser.add_argument("--entity", help="user or team of the project; the account's default when left out")
    parser.add_argument("--name", default="lipcert", help="of the view (default: lipcert)")
    parser.add_argument("--dry-run", action="store_true", help="print the definition as JSON; needs no account")
    return parser.parse_args(words)


def dashboard(options: argparse.Namespace, say: Callable[[str], object]) -> None:
    """Create the dashboard, or print its definition.

    Args:
        options: of `arguments`.
        say: takes the text for standard output.

    Raises:
        ImportError: where the library is missing or broken.
        ConnectionError: where W&B cannot be reached or refuses.
    """
    library = _library()
    if options.dry_run:
        workspace = library.build_workspace(options.entity or "", options.project, options.name, SECTIONS)
        say(json.dumps(library.definition(workspace), indent=2))
        return
    say(f"The dashboard is at {_save(library, options)}")


def _library() -> ModuleType:
    try:
        from lipcert.dashboard import workspace
    except Exception as error:  # a broken installation raises anything
        raise ImportError(
            f"The dashboard needs the package wandb-workspaces, which cannot be imported ({error}); "
            "install it with `pip install 'lipcert[wandb-dashboard]'` or `pip install wandb-workspaces`."
        ) from error
    return workspace


def _save(library: ModuleType, options: argparse.Namespace) -> str:
    """Send the dashboard to W&B and return its address."""
    import wandb

    try:
        entity = options.entity or _default_entity(wandb.Api())
        workspace: Any = library.build_workspace(entity, options.project, options.name, SECTIONS)
        return str(workspace.save().url)
    except Exception as error:  # wandb and its transports raise anything
        raise ConnectionError(
            f"Weights & Biases did not take the dashboard ({' '.join(str(error).split())}). Log in with `wandb login` "
            "and give a project that holds a run, or look at the definition with --dry-run."
        ) from error


def _default_entity(api: Any) -> str:
    if not api.default_entity:
        raise ValueError("the account has no default entity; give --entity")
    return str(api.default_entity)


def main(words: Sequence[str] | None = None) -> None:
    """Entry point: one sentence on standard error and exit code 1 where there is no dashboard."""
    with ending_in_a_sentence(errors=(ImportError, ConnectionError)):
        dashboard(arguments(words), lambda text: sys.stdout.write(f"{text}\n"))
