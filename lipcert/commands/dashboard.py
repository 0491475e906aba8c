"""`python -m lipcert.dashboard`: create the dashboard of runs in a project of Weights & Biases."""

import argparse
import sys
from collections.abc import Sequence

from lipcert.commands.application import ending_in_a_sentence
from lipcert.version import __version__


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
    parser.add_argument("--version", action="version", version=f"lipcert {__version__}")
    return parser.parse_args(words)


def dashboard(options: argparse.Namespace) -> str:
    """Create the dashboard and return where it is, or its definition.

    Raises:
        ImportError: where the library is missing or broken.
        ConnectionError: where W&B cannot be reached or refuses.
    """
    try:
        from lipcert.dashboard.panels import workspace
    except Exception as error:  # a broken installation raises anything
        raise ImportError(
            f"The dashboard needs the package wandb-workspaces, which cannot be imported ({error}); "
            "install it with `pip install 'lipcert[wandb-dashboard]'` or `pip install wandb-workspaces`."
        ) from error
    if options.dry_run:
        view = workspace(options.entity or "", options.project, options.name)._to_model()
        return view.model_dump_json(indent=2, by_alias=True, exclude_none=True)
    import wandb

    try:
        entity = options.entity or wandb.Api().default_entity
        if not entity:
            raise ValueError("the account has no default entity; give --entity")
        return f"The dashboard is at {workspace(entity, options.project, options.name).save().url}"
    except Exception as error:  # wandb and its transports raise anything
        raise ConnectionError(
            f"Weights & Biases did not take the dashboard ({' '.join(str(error).split())}). Log in with `wandb login` "
            "and give a project that holds a run, or look at the definition with --dry-run."
        ) from error


def main(words: Sequence[str] | None = None) -> None:
    """Entry point: one sentence on standard error and exit code 1 where there is no dashboard."""
    with ending_in_a_sentence(errors=(ImportError, ConnectionError)):
        sys.stdout.write(f"{dashboard(arguments(words))}\n")
