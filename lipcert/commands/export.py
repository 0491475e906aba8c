"""`python -m lipcert.export RUN`: a trained network as plain torch, `torch.export` and ONNX, with its record."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lipcert.commands.application import ending_in_a_sentence
from lipcert.system.plugins import load_plugins

if TYPE_CHECKING:
    from torch import nn

    from lipcert.checkpoints import Checkpoint, LoadedNetwork
    from lipcert.records import Record

BUILDING = ("model", "activation", "parametrization", "builder", "imported")
"""What descriptions say of how a network is built, which an exported one does by itself."""


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line; argparse exits with code 2 where it does not fit."""
    parser = argparse.ArgumentParser(
        prog="python -m lipcert.export",
        description="Write a network into a folder of its own: weights.pt, model.py that builds it and imports torch "
        "alone, model.pt2 of torch.export, model.onnx, and the record of its certificates, bound to these files.",
        epilog="Exit codes: 0 the folder is written; 1 it is not, with the reason; 2 a command line that does not fit; "
        "130 ended by Ctrl-C. Example: python -m lipcert.export RUN",
    )
    parser.add_argument("network", type=Path, metavar="RUN", help="folder of a run, or a checkpoint")
    parser.add_argument("--output", type=Path, help="folder to make (default: RUN/export/NAME of the checkpoint)")
    parser.add_argument(
        "--certificate", type=Path, help="certificate.json of the network (default: the one in RUN/certificates/NAME)"
    )
    parser.add_argument("--no-onnx", action="store_true", help="leave model.onnx out")
    parser.add_argument("--builder", help="package.module:function that returns a network of your own")
    parser.add_argument("--plugins", type=lambda text: text.split(","), default=[], help="modules to import first")
    return parser.parse_args(words)


def export(options: argparse.Namespace, say: Callable[[str], object]) -> None:
    """Export a network, as the `options` of `arguments` say, and `say` what was written.

    Raises:
        FileExistsError: where the folder is there.
        FileNotFoundError, OSError: for a file that is missing, or a folder that cannot be written.
        ValueError: for a file that is damaged, or a record of another network.
        NotImplementedError: for a layer that plain torch does not have.
        ArithmeticError: where the exported network yields other logits.
    """
    import torch

    from lipcert.checkpoints import read_checkpoint
    from lipcert.exporting import onnx_is_there, write_export
    from lipcert.jobs.preparation import beside, make_folder
    from lipcert.records import JSON_NAME, read_record
    from lipcert.system.execution import cover_execution

    load_plugins(options.plugins)
    cover_execution(torch.device("cpu"))
    checkpoint = read_checkpoint(options.network)
    folder = options.output or beside(checkpoint.path, "export")
    if folder.exists():
        raise FileExistsError(f"{folder} is there already; choose another --output DIR, or move it away.")
    path = options.certificate or beside(checkpoint.path, "certificates") / JSON_NAME
    record = read_record(path) if options.certificate or path.is_file() else None
    loaded, shape = _loaded(checkpoint, record, options.builder)
    onnx = onnx_is_there() and not options.no_onnx
    description = {key: value for key, value in loaded.description.items() if key not in BUILDING}
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    make_folder(temporary)
    try:
        write_export(temporary, loaded.model, shape, description, onnx)
        if record is not None:
            _bind(record, temporary)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if not onnx and not options.no_onnx:
        say("model.onnx is left out: pip install 'lipcert[onnx]' installs what writes it.")
    if record is None:
        say(f"There is no record at {path}: certify the network, and export it once more, to take one along.")
    else:
        say(f"Check it: python -m lipcert.check {folder / JSON_NAME} --checkpoint {folder}")
    say(f"The exported network is in {folder}")


def _loaded(
    checkpoint: Checkpoint, record: Record | None, builder: str | None
) -> tuple[LoadedNetwork, tuple[int, ...]]:
    """Return the network and the shape of its images; refuse a record of another network."""
    from lipcert.checkpoints import load_network
    from lipcert.records.fingerprint import model_sha256

    if record is not None:
        data, said = record.contents.data, record.contents.model
        shape, classes = data.image_shape, data.num_classes
        known = {} if builder else {key: said.description.get(key) for key in ("model", "activation")}
    elif checkpoint.origin is not None:
        shape, classes, known = checkpoint.origin.image_shape, checkpoint.origin.num_classes, {}
    else:
        raise ValueError(
            f"{checkpoint.path} does not say for which images its network is; its record does: certify it first, or "
            "give --certificate PATH."
        )
    loaded = load_network(checkpoint, shape, classes, builder=builder, **known)
    if record is not None and (found := model_sha256(loaded.model)) != record.contents.model.sha256:
        raise ValueError(
            f"The record is of another network: that of {checkpoint.path} has SHA-256 {found}, the record says "
            f"{record.contents.model.sha256}. Certify this one anew, or give its --certificate PATH."
        )
    return loaded, shape


def _bind(record: Record, folder: Path) -> None:
    """Write a record into the folder of the exported network, about the network that is read from these files."""
    from dataclasses import replace

    from lipcert.checkpoints import load_network
    from lipcert.records import Model, write_record
    from lipcert.records.fingerprint import model_sha256

    contents = record.contents
    exported = load_network(folder, contents.data.image_shape, contents.data.num_classes)
    model: nn.Module = exported.model
    said = Model(model_sha256(model), contents.model.dtype, exported.description)
    write_record(folder, replace(contents, model=said, checkpoint="weights.pt"), record.rows)


def main(words: Sequence[str] | None = None) -> None:
    """Entry point of `lipcert-export`: one sentence on standard error and exit code 1 where nothing is exported."""
    with ending_in_a_sentence("Stopped; nothing was exported."):
        export(arguments(words), lambda line: sys.stdout.write(f"{line}\n"))
