"""The entry of a network in a zoo: its weights, the record of its certificates, what attacks leave, its card."""

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig

from lipcert.bounds import Bound
from lipcert.checkpoints import read_checkpoint
from lipcert.checkpoints.reading import ENTRY, ONNX
from lipcert.checkpoints.safe_tensors import write_safetensors
from lipcert.jobs.certify import run as certify
from lipcert.jobs.preparation import Subject, make_folder, prepare
from lipcert.records import JSON_NAME, read_record, write_record
from lipcert.system.overrides import NOT_COMPARED, is_within, split_override
from lipcert.training.evaluation import EvaluationSettings, evaluate
from lipcert.zoo.cards import CARD, Card, write_card

OF_RUNS = ("method", "bound", "seed", "epochs", "seconds_per_epoch", "lipcert_version", "torch_version", "commit")
"""Keys of a run's `results.json` that say how it was trained."""

ELSEWHERE = ("data", "model", "activation", "epsilon", "extra", "peak_memory_mb")
"""Keys that a card has elsewhere or leaves out; all others are what `evaluate` returned."""

NOT_TOLD = (*NOT_COMPARED, "hydra")
"""Settings that do not stand in the command of a card: they say where a run took place."""

BOUNDS = ["global", "local", "tight"]


def write_weights(network: Path, folder: Path) -> Path:
    """Write the weights of a network into the folder of its entry; return their file.

    What its checkpoint says of it goes along, but for the place of the data; an ONNX file is copied.

    Raises:
        FileExistsError: where the entry is whole already.
        FileNotFoundError, ValueError: as of `read_checkpoint`.
    """
    checkpoint = read_checkpoint(network)
    if (folder / CARD).exists():
        raise FileExistsError(f"{folder} has a card already; choose another --name, or move it away.")
    make_folder(folder)
    if checkpoint.path.suffix == ONNX:
        return Path(shutil.copyfile(checkpoint.path, folder / ENTRY[1]))
    data = {key: value for key, value in checkpoint.data.items() if key != "root" and value is not None}
    origin = vars(checkpoint.origin) if checkpoint.origin else None
    said = {"description": checkpoint.description, "network": origin, "data": data}
    write_safetensors(folder / ENTRY[0], checkpoint.state_dict, said)
    return folder / ENTRY[0]


def write_entry(config: DictConfig, run: Path) -> Card:
    """Certify, evaluate and write the card of the network whose weights are in its folder; return it.

    Where the record is there already, it is kept. Figures of a run of lipcert that met AutoAttack are taken from its
    `results.json`; all others are found on the images that were certified.

    Args:
        config: of `lipcert.certify`, its output the folder, its checkpoint the weights in it.
        run: folder of the run, or whatever else the network came from.

    Raises:
        ValueError: where the record is of something else; as of `lipcert.certify`.
    """
    folder, weights = Path(config.output), Path(config.checkpoint)
    if not (folder / JSON_NAME).exists():
        certify(config)
        record = read_record(folder / JSON_NAME)
        write_record(folder, replace(record.contents, checkpoint=weights.name), record.rows)
    subject, results = prepare(config), run / "results.json"
    known = read_record(folder / JSON_NAME).contents
    found = (known.model.sha256, known.data, known.epsilons)
    if found != (subject.said_of_model().sha256, subject.data, subject.epsilons):
        raise ValueError(f"{folder} holds a record of another network, radius or images; move it away.")
    said = json.loads(results.read_text(encoding="utf-8")) if results.is_file() else {}
    training = {key: said[key] for key in OF_RUNS if key in said}
    evaluation = {key: value for key, value in said.items() if key not in (*OF_RUNS, *ELSEWHERE)}
    if evaluation.get("autoattack_accuracy") is None:
        evaluation = _evaluated(subject)
    parameters = sum(each.numel() for each in subject.model.parameters())
    return write_card(folder, parameters, {"command": _command(run), **training} if said else {}, evaluation)


def _evaluated(subject: Subject) -> dict[str, Any]:
    """Return what `evaluate` finds on the images that were certified, all of which AutoAttack may attack."""
    settings = EvaluationSettings(bounds=BOUNDS, lanczos_steps=60, autoattack_images=len(subject.split))
    return evaluate(subject.model, subject.split.to(subject.device), subject.epsilon, Bound("tight"), settings)


def _command(run: Path) -> str:
    """Return the command that trained a run, without settings of where it took place."""
    overrides = yaml.safe_load((run / ".hydra" / "overrides.yaml").read_text(encoding="utf-8")) or []
    told = [each for each in map(str, overrides) if not is_within(split_override(each)[0], NOT_TOLD)]
    return shlex.join(["python", "-m", "lipcert.train", *told])
