"""What `certificate.json` and `certificates.csv` hold, field by field."""

from dataclasses import dataclass
from typing import Any, Self, get_type_hints

from lipcert.system.switches import Execution

FORMAT = 1
"""Version of the files; readers refuse any other."""


@dataclass(frozen=True)
class Row:
    """One image at one epsilon: a line of `certificates.csv`.

    Attributes:
        index: of the image in its split.
        label: its class.
        prediction: class of the clean image.
        epsilon: l2 radius, in pixels of [0, 1].
        margin: lower bound of z_label - z_other over the whole ball, rounding taken off.
        certified: the prediction is the label and stays it within `epsilon`.
        lipschitz: bound of the Lipschitz constant up to the last activation.
        radius: proved, at least: `epsilon` or more where certified, less elsewhere, 0 where the prediction is wrong.
        rounding: what was taken off the margin for rounding.
        stage: name of the stage that certified it, empty for none.
    """

    index: int
    label: int
    prediction: int
    epsilon: float
    margin: float
    certified: bool
    lipschitz: float
    radius: float
    rounding: float
    stage: str


COLUMNS: dict[str, type] = get_type_hints(Row)
"""Columns of `certificates.csv` and their kinds."""


@dataclass(frozen=True)
class Model:
    """The network: `model_sha256`, dtype of its weights, and what its checkpoint says of itself."""

    sha256: str
    dtype: str
    description: dict[str, Any]


@dataclass(frozen=True)
class Data:
    """The first `num_images` images of a split, and their `data_sha256`."""

    name: str
    split: str
    num_images: int
    image_shape: tuple[int, ...]
    num_classes: int
    sha256: str


@dataclass(frozen=True)
class Arithmetic:
    """The arithmetic the certificates speak of: dtype the network runs in, its unit roundoff, one sentence."""

    executed: str
    unit_roundoff: float
    statement: str

    @classmethod
    def of(cls, executed: str, unit_roundoff: float) -> Self:
        """Return the arithmetic of a dtype, with its sentence."""
        statement = (
            f"Certificates hold for the network as executed in {executed} (unit roundoff {unit_roundoff:.3g}), its "
            "sums in any order, and for its weights taken as real numbers; what rounding may cost is taken off every "
            "margin."
        )
        return cls(executed, unit_roundoff, statement)


@dataclass(frozen=True)
class FailureProbability:
    """Probability that any statement is wrong: `total` = min(1, `norms` * `per_norm`)."""

    per_norm: float
    norms: int
    total: float

    @property
    def certainty(self) -> str:
        """How certain all statements together are, behind "They hold"."""
        return (
            f"with probability at least 1 - {self.total:.1e} ({self.norms} norms that may fail)"
            if self.norms
            else "for certain"
        )


@dataclass(frozen=True)
class StageTally:
    """One stage of the cascade: its settings and its work.

    `entered` counts an image once an epsilon at which the stage saw it. `certified` counts each image at most once:
    what is certified at one epsilon keeps that certificate at the smaller ones, where `Totals.certified_by_stage`
    counts it again. `seconds` are those spent in the stage.
    """

    name: str
    bound: str
    lanczos_steps: int
    entered: int
    certified: int
    seconds: float


@dataclass(frozen=True)
class NormBracket:
    """Lower and upper bound of the global norm of one linear map."""

    lower: float
    upper: float


@dataclass(frozen=True)
class Totals:
    """What the rows of one epsilon amount to; accuracies are fractions."""

    epsilon: float
    num_images: int
    clean_accuracy: float
    certified_accuracy: float
    certified_by_stage: dict[str, int]


@dataclass(frozen=True)
class RowsFile:
    """The file of the rows, beside `certificate.json`: its name, the SHA-256 of its bytes, how many rows."""

    file: str
    sha256: str
    count: int


@dataclass(frozen=True)
class Contents:
    """Everything a record says but its rows and what follows from them.

    Attributes:
        lipcert_version: which wrote the record.
        checkpoint: path of the network's file.
        epsilons: radii, in the order given.
        clip_input: the adversary only uses pixels in [0, 1].
        execution: switches of torch in the process that finished the record; None in records from before these said so.
        norms: bracket of the norm of each linear map between activations, by the name of the activation behind it.
        seconds: spent in all.
    """

    lipcert_version: str
    checkpoint: str
    model: Model
    data: Data
    epsilons: tuple[float, ...]
    clip_input: bool
    arithmetic: Arithmetic
    execution: Execution | None
    failure_probability: FailureProbability
    stages: tuple[StageTally, ...]
    norms: dict[str, NormBracket]
    seconds: float


@dataclass(frozen=True)
class Record:
    """A record: what `certificate.json` says as `contents` and `totals`, and the rows.

    `rows` are sorted by epsilon as in `contents.epsilons`, then by index: one an image and epsilon.
    """

    contents: Contents
    totals: tuple[Totals, ...]
    rows: tuple[Row, ...]
