"""`python -m lipcert.zoo`: list the networks that come with lipcert, check them, make an entry of another network."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lipcert.commands.application import ending_in_a_sentence
from lipcert.system.errors import EXPECTED_ERRORS, sentence_of

if TYPE_CHECKING:
    from lipcert.zoo import Card

IMAGES = 1000
"""First test images of a record."""

Say = Callable[[str], object]


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line; argparse exits with code 2 where it does not fit."""
    parser = argparse.ArgumentParser(
        prog="python -m lipcert.zoo",
        description="List the networks that come with lipcert, check them, or certify a network by the same rules.",
        epilog="Exit codes: 0 done; 1 something is refused, with the reason; 2 a command line that does not fit; 130 "
        'ended by Ctrl-C. In Python lipcert.load("NAME") returns a network.',
    )
    parser.set_defaults(what=show)
    parser.add_argument("--zoo", type=Path, help="folder of entries (default: those that come with lipcert)")
    parts = parser.add_subparsers(title="what to do", metavar="list | verify | submit")
    parts.add_parser("list", help="the leaderboard (default)")
    verifying = parts.add_parser("verify", help="check files, cards and records")
    verifying.set_defaults(what=verify)
    verifying.add_argument("names", nargs="*", metavar="NAME", help="networks to check (default: all)")
    verifying.add_argument("--count", type=int, default=20, help="rows of each record to derive anew (default: 20)")
    verifying.add_argument("--weights", type=Path, help="folder of NAME.safetensors, where weights are not in the zoo")
    submitting = parts.add_parser("submit", help="certify and attack a network, write its entry")
    submitting.set_defaults(what=submit)
    submitting.add_argument("network", type=Path, help="folder of a run, checkpoint, state dict, ONNX or safetensors")
    submitting.add_argument("--name", required=True, help="of the entry, the folder that is made")
    submitting.add_argument("--data", help="name of the data set (default: the one it was trained on)")
    submitting.add_argument("--epsilon", type=float, help="l2 radius (default: the one it was trained for)")
    submitting.add_argument("--limit", type=int, default=IMAGES, help=f"first test images (default: {IMAGES})")
    submitting.add_argument("--output", type=Path, default=Path(), help="where the folder is made (default: here)")
    submitting.add_argument("--builder", help="package.module:function that returns the network: code that is executed")
    verifying.add_argument("--builder", action="append", default=[], help="one that may be executed; may be repeated")
    for each in (verifying, submitting):
        each.add_argument("--data-root", type=Path, help="folder of the data sets' files")
    return parser.parse_args(words)


def show(options: argparse.Namespace, say: Say) -> None:
    """Print the leaderboard; raise ValueError with the cards that are refused."""
    from lipcert.zoo import leaderboard, read_card

    cards: dict[str, Card] = {}
    refused = []
    for name, folder in _entries(options).items():
        try:
            cards[name] = read_card(folder)
        except ValueError as error:
            refused.append(str(error))
    rows = leaderboard(cards)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        say("  ".join(map(str.ljust, row, widths)).rstrip())
    _refuse(refused)


def verify(options: argparse.Namespace, say: Say) -> None:
    """Check that files are those of their cards, cards what their records say, and records as `lipcert.check` does.

    Raises:
        ValueError: with a sentence for every network that is refused; the others are checked all the same.
    """
    from lipcert.commands.check import arguments as to_check
    from lipcert.commands.check import check
    from lipcert.zoo import read_card, weights_of

    folders = _entries(options)
    if unknown := [name for name in options.names if name not in folders]:
        raise ValueError(f"Expected a name among {', '.join(folders)}, got {unknown[0]}.")
    refused, names = [], options.names or list(folders)
    for name in names:

        def of_it(line: str, name: str = name) -> None:
            say(f"{name}: {line}")

        try:
            card, folder = read_card(folders[name]), folders[name]
            words = [str(folder), "--checkpoint", str(weights_of(folder, card, options.weights))]
            words += ["--count", str(options.count)]
            if card.builder is not None and card.builder in options.builder:
                words += ["--builder", card.builder]
            if options.data_root is not None and _has_files(card.data):
                words += ["--data-root", str(options.data_root)]
            check(to_check(words), of_it)
        except EXPECTED_ERRORS as error:
            refused.append(f"{name}: {sentence_of(error).removeprefix(f'{name}: ')}")
            of_it("REFUSED")
    _refuse(refused)
    say(f"confirmed: {', '.join(names) or 'nothing, the zoo is empty'}")


def submit(options: argparse.Namespace, say: Say) -> None:
    """Certify a network on the first test images, attack it, write its entry; typed again, it goes on where it was."""
    from lipcert.jobs.entry import write_entry, write_weights

    folder = options.output / options.name
    card = write_entry(_config(options, write_weights(options.network, folder)), options.network)
    share, said = card.certified.certified_accuracy, card.certified
    say(f"{options.name}: {share:.1%} of {said.images} images certified at {card.epsilon:.4g}; its card is in {folder}")
    say(f"Check it: python -m lipcert.zoo --zoo {folder.parent} verify {folder.name}")


def _entries(options: argparse.Namespace) -> dict[str, Path]:
    from lipcert.checkpoints.reading import ZOO

    top = options.zoo or ZOO
    return {path.name: path for path in sorted(top.iterdir()) if path.is_dir()} if top.is_dir() else {}


def _has_files(data: str) -> bool:
    """Whether a data set lies in files, so that `data.root` names their folder."""
    from inspect import signature

    from lipcert.data import SOURCES

    return data not in SOURCES or bool(signature(SOURCES[data]).parameters)


def _refuse(sentences: Sequence[str]) -> None:
    if sentences:
        raise ValueError(" ".join(sentences))


def _config(options: argparse.Namespace, weights: Path) -> Any:
    """Return the settings of `lipcert.certify` by which every entry is certified."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from lipcert.system.configuration import config_folder, register
    from lipcert.system.overrides import quoted

    given = {"checkpoint": weights, "output": weights.parent, "limit": options.limit, "data": options.data}
    given |= {"epsilon": options.epsilon, "data_root": options.data_root, "builder": options.builder}
    words = [f"{key}={quoted(str(value))}" for key, value in given.items() if value is not None]
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_folder(), version_base="1.3"):
        return compose("certify", overrides=words)


def main(words: Sequence[str] | None = None) -> None:
    """Entry point of `lipcert-zoo`: one sentence on standard error and exit code 1 for what is refused."""
    with ending_in_a_sentence("Stopped; type the same command again."):
        options = arguments(words)
        options.what(options, lambda line: sys.stdout.write(f"{line}\n") and sys.stdout.flush())
