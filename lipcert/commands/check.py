"""`python -m lipcert.check CERTIFICATE.json --checkpoint PATH`: re-check a record by an independent derivation."""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lipcert.commands.application import ending_in_a_sentence
from lipcert.system.plugins import load_plugins
from lipcert.version import __version__

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lipcert.checkpoints import Checkpoint
    from lipcert.recheck import Rechecker
    from lipcert.records import Record

SHOWN = 20
"""Most contradictions that are listed; more are counted."""


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line; argparse exits with code 2 where it does not fit."""
    parser = argparse.ArgumentParser(
        prog="python -m lipcert.check",
        description="Re-check a record of certificates: its files, its rows against each other, and some rows anew by "
        "bounds that share no code with those that made them, and by an attack.",
        epilog="Exit codes: 0 everything that was checked is confirmed; 1 refused, contradicted or not re-derived, "
        "with the reason; 2 a command line that does not fit; 130 ended by Ctrl-C. Example: python -m lipcert.check "
        "RUN/certificates/last/certificate.json --checkpoint RUN/checkpoints/last.ckpt",
    )
    parser.add_argument("certificate", type=Path, help="certificate.json, its folder, or that of a run")
    parser.add_argument("--checkpoint", type=Path, help="network of the record (default: that of its run)")
    parser.add_argument("--version", action="version", version=f"lipcert {__version__}")
    parser.add_argument("--count", type=int, default=20, help="rows to derive anew, drawn at random (default: 20)")
    parser.add_argument("--rows", type=_numbers, help="rows to derive anew, by number from 0: 3,17")
    parser.add_argument("--seed", type=int, help="of the draw of rows; the operating system's randomness when left out")
    parser.add_argument("--data-root", type=Path, help="folder of the data set's files")
    parser.add_argument("--builder", help="package.module:function that returns a network of your own")
    parser.add_argument("--plugins", type=_words, default=[], help="modules to import first, which add layers: one,two")
    return parser.parse_args(words)


def _words(text: str) -> list[str]:
    return text.split(",")


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def check(options: argparse.Namespace, say: Callable[[str], object]) -> None:
    """Check a record, as the `options` of `arguments` say, and `say` line by line what is confirmed.

    Raises:
        FileNotFoundError: for a file that is missing.
        NotImplementedError: for a network that cannot be re-checked.
        ValueError: with the reason, for a record that is refused or contradicted.
    """
    import torch

    from lipcert.checkpoints import read_checkpoint
    from lipcert.recheck import (
        Rechecker,
        backward_stages,
        contradicted_by_execution,
        contradicted_norms,
        contradictions,
        place,
    )
    from lipcert.recheck.splits import PARTS
    from lipcert.records import read_record
    from lipcert.system.configuration import OURS
    from lipcert.system.execution import cover_execution

    load_plugins(options.plugins)
    cover_execution(torch.device("cpu"))
    options.certificate = _record_file(options.certificate)
    record = read_record(options.certificate)
    builder = record.contents.model.description.get("builder")
    if builder and builder not in OURS and not options.builder:
        raise ValueError(f"The record is of a network of its own; type --builder {builder}.")
    options.checkpoint = options.checkpoint or _checkpoint_of(options.certificate)
    checkpoint = read_checkpoint(options.checkpoint)
    images, labels = _data(options, checkpoint, record)
    beyond, contents = backward_stages(record), record.contents
    network = _network(options, checkpoint, record)
    rechecker = Rechecker(network, contents.data.image_shape, contents.clip_input, backward=bool(beyond))
    _check_dtype(rechecker, record)
    say(f"network and data are those of {options.certificate}")
    chosen, unknown = _chosen(options, len(record.rows)), 0
    found = contradictions(record) + contradicted_norms(rechecker.global_norms, record)
    found += contradicted_by_execution(rechecker, record, images, labels)
    say(f"{len(record.rows)} rows, totals and norms: {len(found) or 'no'} contradictions without deriving bounds")
    for number in chosen:
        row, where = record.rows[number], place(record, number)
        refuted, reason = rechecker.refutation(row, images[row.index]), rechecker.reason_against(row, images[row.index])
        if reason is not None and beyond and refuted is None:
            say(f"{where}not re-derived ({reason}; it may rest on {' and '.join(beyond)})")
            unknown += 1
            continue
        reason = reason or refuted
        said = "confirmed" + ", its margin by attacks alone" * rechecker.attacks_judge(row)
        say(f"{where}{said if reason is None else f'contradicted ({reason})'}")
        found += [] if reason is None else [where + reason]
    if found:
        more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise ValueError(f"{options.certificate} is contradicted: {'; '.join(found[:SHOWN])}{more}.")
    if unknown:
        raise ValueError(
            f"{unknown} of {len(chosen)} rows are not re-derived: they may rest on the stages {', '.join(beyond)}, "
            f"whose bounds can be tighter than those of this check ({PARTS} parts of a ball at most, for each class). "
            f"Attacks do not refute them; the other {len(chosen) - unknown} are confirmed."
        )
    failure = min(1.0, rechecker.norms.failure_probability)
    say(f"confirmed: {len(chosen)} of {len(chosen)} rows derived anew, at failure probability {failure:.1e}")


def _record_file(path: Path) -> Path:
    """Return the `certificate.json` at a path: itself, in a folder, or the only one of a run."""
    if not path.is_dir():
        return path
    inside = path / "certificate.json"
    found = [inside] if inside.exists() else sorted(path.glob("certificates/*/certificate.json"))
    if not found:
        raise FileNotFoundError(f"{path} holds no record; make one by python -m lipcert.certify {path}.")
    if len(found) > 1:
        raise ValueError(f"{path} holds several records; give one of {', '.join(map(str, found))}.")
    return found[0]


def _checkpoint_of(certificate: Path) -> Path:
    """Return RUN/checkpoints/x.ckpt of RUN/certificates/x/certificate.json."""
    folder = certificate.resolve().parent
    found = folder.parent.parent / "checkpoints" / f"{folder.name}.ckpt"
    if not found.is_file():
        raise FileNotFoundError(f"Which network is {certificate} about? Type --checkpoint PATH.")
    return found


def _network(options: argparse.Namespace, checkpoint: Checkpoint, record: Record) -> nn.Module:
    """Return the network of the checkpoint; refuse one whose fingerprint is not the record's."""
    from lipcert.checkpoints import load_network
    from lipcert.records.fingerprint import model_sha256, unsaid

    data, said = record.contents.data, record.contents.model
    known = {} if options.builder else {key: said.description.get(key) for key in ("model", "activation")}
    loaded = load_network(checkpoint, data.image_shape, data.num_classes, builder=options.builder, **known)
    model, digest = loaded.model, model_sha256(loaded.model)
    if digest != said.sha256 and said.sha256 == model_sha256(model, complete=False):
        raise ValueError(
            f"{options.certificate} names its network by an older fingerprint, which leaves out what decides what it "
            f"computes: {json.dumps(unsaid(model))}. Certify it anew."
        )
    if digest != said.sha256:
        older = " Records of parametrized networks from before these were folded are refused: certify it anew."
        raise ValueError(
            f"The record is of another network: that of {options.checkpoint} has SHA-256 {digest}, "
            f"the record says {said.sha256}.{older if said.description.get('parametrization') else ''}"
        )
    description = json.loads(json.dumps(loaded.description))
    if description != said.description:
        raise ValueError(
            f"The record's model.description is {said.description}; that of {options.checkpoint} is {description}."
        )
    return model


def _data(options: argparse.Namespace, checkpoint: Checkpoint, record: Record) -> tuple[Tensor, Tensor]:
    """Return the images and labels the record is about; refuse others."""
    from lipcert.data import load_again
    from lipcert.records.fingerprint import data_sha256

    said = record.contents.data
    source = load_again(checkpoint.data, said.name, root=options.data_root)
    if said.split not in ("train", "test"):
        raise ValueError(f"Expected the split train or test in the record, got {said.split!r}.")
    images, labels = getattr(source, said.split).first(said.num_images)[:]
    digest = data_sha256(images, labels)
    if len(labels) != said.num_images:
        raise ValueError(f"The record's data.num_images is {said.num_images}, but {said.name} has {len(labels)}.")
    if digest != said.sha256 or tuple(images.shape[1:]) != said.image_shape or source.num_classes != said.num_classes:
        raise ValueError(
            f"The record is of other data: the first {said.num_images} images of {said.name} ({said.split}) have "
            f"SHA-256 {digest}, the record says {said.sha256}."
        )
    return images, labels


def _check_dtype(rechecker: Rechecker, record: Record) -> None:
    dtype = str(rechecker.program.dtype).removeprefix("torch.")
    for said in (record.contents.arithmetic.executed, record.contents.model.dtype):
        if said.removeprefix("torch.") != dtype:
            raise ValueError(f"The record is of a network in {said}, the checkpoint's is in {dtype}.")


def _chosen(options: argparse.Namespace, count: int) -> list[int]:
    """Return the numbers of the rows to derive anew."""
    if options.rows is None:
        if options.count < 0:
            raise ValueError(f"Expected --count of at least 0, got {options.count}.")
        return sorted(random.Random(options.seed).sample(range(count), min(options.count, count)))
    for number in options.rows:
        if not 0 <= number < count:
            raise ValueError(f"Expected --rows from 0 to {count - 1}, got {number}.")
    return list(options.rows)


def main(words: Sequence[str] | None = None) -> None:
    """Entry point: report on standard output; one sentence on standard error and exit code 1 for a refusal."""
    with ending_in_a_sentence("Stopped; nothing is confirmed."):
        check(arguments(words), lambda line: sys.stdout.write(f"{line}\n") and sys.stdout.flush())
