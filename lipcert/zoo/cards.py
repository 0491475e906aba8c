"""Cards: what is known of a network of the zoo, bound by SHA-256 to its weights and its record of certificates."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

from lipcert.checkpoints.reading import ENTRY
from lipcert.records import JSON_NAME, Record, read_record
from lipcert.records.typed_text import decode, read_object
from lipcert.system.errors import sentence_of
from lipcert.system.files import read_bytes, write_json

CARD = "card.json"
FORMAT = 1

LICENCES = {
    "digits": "CC BY 4.0 (UCI, Optical Recognition of Handwritten Digits)",
    "fashionmnist": "MIT (Zalando)",
    "mnist": "CC BY-SA 3.0 (LeCun, Cortes)",
    "cifar10": "none stated; free for research with the citation (Krizhevsky 2009)",
}
"""Of the images, by the name of the data; weights are under lipcert's own."""

FALLING = ("clean_accuracy", "pgd_accuracy", "certified_accuracy_executed")
"""Figures over the same images, none of which can be above the one before it."""


@dataclass(frozen=True)
class File:
    """A file beside the card: its name and the SHA-256 of its bytes."""

    name: str
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Self:
        """Return what a card says of a file."""
        return cls(path.name, hashlib.sha256(read_bytes(path)).hexdigest())


@dataclass(frozen=True)
class Certified:
    """What the record says of the first `images` test images, certified as executed by the default cascade."""

    images: int
    clean_accuracy: float
    certified_accuracy: float
    failure_probability: float

    @classmethod
    def of(cls, record: Record) -> Self:
        """Return the totals of a record at its only radius."""
        (total,), failure = record.totals, record.contents.failure_probability.total
        return cls(total.num_images, total.clean_accuracy, total.certified_accuracy, failure)


@dataclass(frozen=True)
class Card:
    """A network of the zoo.

    Attributes:
        data, licence: name of the data set, and the licence of its images.
        epsilon: l2 radius in pixels of [0, 1].
        parameters: how many numbers the weights are.
        builder: what builds the network, where that is not lipcert.
        weights, record: their files.
        training: command, commit, epochs and seconds an epoch of a run of lipcert; for others what was submitted.
        evaluation: what `evaluate` returned, over the first `num_test` test images.
        certified: totals of the record.
    """

    data: str
    licence: str
    epsilon: float
    parameters: int
    builder: str | None
    weights: File
    record: File
    training: dict[str, Any]
    evaluation: dict[str, Any]
    certified: Certified


def write_card(folder: Path, parameters: int, training: Mapping[str, Any], evaluation: Mapping[str, Any]) -> Card:
    """Write the card of the weights and the record that lie in `folder`; an entry with a card is whole.

    Raises:
        ValueError, OSError: for a record that cannot be read or has several radii, or a folder that cannot be written.
    """
    record = read_record(folder / JSON_NAME)
    said = record.contents
    if len(said.epsilons) != 1:
        raise ValueError(f"Expected the record of one radius in {folder}, got {len(said.epsilons)}.")
    weights = next(folder / name for name in ENTRY if (folder / name).is_file())
    files, licence = (File.of(weights), File.of(folder / JSON_NAME)), LICENCES.get(said.data.name, "not stated")
    known = (said.data.name, licence, said.epsilons[0], parameters, said.model.description.get("builder"))
    card = Card(*known, *files, dict(training), dict(evaluation), Certified.of(record))
    write_json(folder / CARD, {"format": FORMAT, **asdict(card)})
    return card


def read_card(folder: Path) -> Card:
    """Return the card of an entry, whose files must be those that it names; weights may be elsewhere.

    Raises:
        ValueError: naming what is damaged, missing, changed, or contradicts the record.
    """
    try:
        card: Card = decode(Card, read_object(folder / CARD, FORMAT), "the card")
        if (folder / card.weights.name).is_file():
            weights_of(folder, card)
        _refuse_other(folder / JSON_NAME, card.record)
        record = read_record(folder / JSON_NAME)
        for key, said, found in _pairs(card, record):
            if said != found:
                raise ValueError(f"its {key} is {said}, but the record says {found}")
        _refuse_rise(card.evaluation)
    except (ValueError, OSError) as error:
        raise ValueError(f"{folder.name}: {sentence_of(error).rstrip('.')}.") from error
    return card


def weights_of(folder: Path, card: Card, elsewhere: Path | None = None) -> Path:
    """Return the file of a network's weights, in the folder of its entry or, by the entry's name, `elsewhere`.

    Raises:
        FileNotFoundError, ValueError: where it is not there, or is another.
    """
    path = folder / Path(card.weights.name).name
    if elsewhere is not None and not path.is_file():
        path = elsewhere / f"{folder.name}{path.suffix}"
    if not path.is_file():
        raise FileNotFoundError(f"{folder.name}: {path} is not there; --weights FOLDER names where its weights lie.")
    _refuse_other(path, card.weights)
    return path


def _refuse_other(path: Path, file: File) -> None:
    if (found := File.of(path).sha256) != file.sha256:
        raise ValueError(f"{path.name} is not that of the card: its SHA-256 is {found}, the card says {file.sha256}")


def _pairs(card: Card, record: Record) -> list[tuple[str, Any, Any]]:
    """Return by name what a card and its record both say."""
    data, epsilons = record.contents.data.name, record.contents.epsilons
    pairs = [("data", card.data, data), ("epsilon", (card.epsilon,), epsilons)]
    return [*pairs, ("certified", card.certified, Certified.of(record))]


def _refuse_rise(evaluation: Mapping[str, Any]) -> None:
    """Refuse accuracies under attack above clean ones, and certified ones above those."""
    figures = [(key, evaluation[key]) for key in FALLING if evaluation.get(key) is not None]
    for (above, most), (key, value) in pairwise(figures):
        if not 0 <= value <= most <= 1:
            raise ValueError(f"its {key} of {value} is not between 0 and its {above} of {most}")
