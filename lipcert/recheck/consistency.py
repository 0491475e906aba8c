"""Whether a record agrees with itself: rules that every row obeys, and all that follows from the rows."""

import math
from collections import Counter
from dataclasses import asdict, replace

from lipcert.recheck.rounding import ARITHMETIC
from lipcert.records import Arithmetic, Record, Row, totals
from lipcert.system.execution import uncovered
from lipcert.version import __version__

TOLERANCE = 1e-9
"""Relative tolerance on sums of seconds and on the total failure probability."""

LEAST_PROBABILITY = 1e-25
"""Norms are bounded from normal numbers drawn as floats: no bound is known to fail more rarely."""

STAGES = {
    "global": ("global", 20),
    "local": ("local", 20),
    "tight": ("tight", 30),
    "tight-100": ("tight", 100),
    "liplt": ("liplt", 30),
    "crown": ("crown", 30),
    "crown-alpha": ("crown-alpha", 30),
    "crown-split": ("crown-alpha", 30),
    "crown-boxes": ("crown-alpha", 30),
}
"""Bound and Lanczos steps of each stage that a record may name."""

BACKWARD = frozenset(name for name, (bound, _) in STAGES.items() if bound.startswith("crown"))
"""Stages of backward linear bounds."""


def contradictions(record: Record) -> list[str]:
    """Return what contradicts itself in a record, a sentence each, rows by their number in the file (from 0)."""
    numbers = {(row.epsilon, row.index): number for number, row in enumerate(record.rows)}
    reasons = {number: row_contradictions(row) for number, row in enumerate(record.rows)}
    first: list[Row] = []
    for rows in _by_image(record):
        for row, larger in zip(rows, [None, *rows], strict=False):
            reasons[numbers[row.epsilon, row.index]] += _against_larger(row, larger)
            first += [row] if larger is None or not larger.certified else []
    return [
        *(place(record, number) + reason for number, found in reasons.items() for reason in found),
        *_totals(record),
        *_stages(record, first),
        *_failure(record),
        *_arithmetic(record),
        *_execution(record),
        *_remarks(record),
    ]


def place(record: Record, number: int) -> str:
    """Return how sentences on a row begin."""
    return f"row {number} (image {record.rows[number].index}, epsilon {record.rows[number].epsilon:g}): "


def row_contradictions(row: Row) -> list[str]:
    """Return the rules that a row breaks by itself."""
    correct = row.prediction == row.label
    rules = {
        f"margin {row.margin:g} with rounding {row.rounding:g}": (
            math.isfinite(row.margin) if math.isfinite(row.rounding) else row.margin == -math.inf
        ),
        f"certified with margin {row.margin:g}": not row.certified or row.margin > 0,
        f"not certified with margin {row.margin:g}": row.certified or row.margin <= 0,
        f"certified, but the prediction is {row.prediction} for label {row.label}": not row.certified or correct,
        f"certified with radius {row.radius:g}": not row.certified or row.epsilon <= row.radius < math.inf,
        f"not certified with radius {row.radius:g}": row.certified or row.radius < row.epsilon,
        f"certified by the stage {row.stage!r}": row.certified == bool(row.stage),
        f"radius {row.radius:g} of a wrong prediction": row.radius <= 0 or correct,
        f"radius {row.radius:g}": row.radius >= 0,
        f"rounding {row.rounding:g}": row.rounding >= 0,
        f"lipschitz {row.lipschitz:g}": row.lipschitz >= 0,
    }
    return [reason for reason, kept in rules.items() if not kept]


def _by_image(record: Record) -> list[list[Row]]:
    """Return the rows of each image, from the largest epsilon to the smallest."""
    images: dict[int, list[Row]] = {}
    for row in sorted(record.rows, key=lambda row: -row.epsilon):
        images.setdefault(row.index, []).append(row)
    return list(images.values())


def _against_larger(row: Row, larger: Row | None) -> list[str]:
    """Return what contradicts the row of the same image at the next larger epsilon: its certificate holds here, too."""
    if larger is None:
        return [f"certified at no larger epsilon with radius {row.radius:g}"] * (
            row.certified and row.radius != row.epsilon
        )
    said, expected = asdict(row), asdict(replace(larger, epsilon=row.epsilon))
    if not larger.certified:
        expected = {key: expected[key] for key in ("label", "prediction")}
        expected |= {"radius": max(row.epsilon, larger.radius)} if row.certified else {}
    wrong = [f"{key} {said[key]} where {value} follows" for key, value in expected.items() if said[key] != value]
    return [f"{', '.join(wrong)} from epsilon {larger.epsilon:g}"] if wrong else []


def _totals(record: Record) -> list[str]:
    stages = [stage.name for stage in record.contents.stages]
    expected = totals(record.rows, record.contents.epsilons, stages)
    if len(expected) != len(record.totals):
        return [f"totals are of {len(record.totals)} epsilons, the rows of {len(expected)}"]
    return [
        f"totals.{key} at epsilon {said.epsilon:g} is {asdict(said)[key]}, the rows have {value}"
        for said, right in zip(record.totals, expected, strict=True)
        for key, value in asdict(right).items()
        if asdict(said)[key] != value
    ]


def _stages(record: Record, first: list[Row]) -> list[str]:
    """Tallies follow from the rows `first` that no larger epsilon certifies: each enters the first stage."""
    stages = record.contents.stages
    names = [stage.name for stage in stages]
    if not names or len(set(names)) < len(names):
        return [f"stages are {', '.join(names) or 'none'}, not each once"]
    certified = Counter(row.stage for row in first if row.certified)
    found = []
    for position, stage in enumerate(stages):
        later = {"", *names[position:]}
        most = sum(row.stage in later and row.prediction == row.label for row in first) if position else len(first)
        least = certified[stage.name] if position else most
        if STAGES.get(stage.name) != (stage.bound, stage.lanczos_steps):
            found.append(
                f"stages.{stage.name}.bound {stage.bound} with lanczos_steps {stage.lanczos_steps} is none of lipcert"
            )
        if stage.certified != certified[stage.name]:
            found.append(f"stages.{stage.name}.certified is {stage.certified}, the rows have {certified[stage.name]}")
        if not least <= stage.entered <= most:
            found.append(f"stages.{stage.name}.entered is {stage.entered}, the rows have {least} to {most}")
    return found


def _failure(record: Record) -> list[str]:
    said = record.contents.failure_probability
    found = []
    if not LEAST_PROBABILITY <= said.per_norm < 1:
        found.append(f"failure_probability.per_norm is {said.per_norm:g}, not between {LEAST_PROBABILITY} and 1")
    if said.norms < 0:
        found.append(f"failure_probability.norms is {said.norms}")
    if not math.isclose(said.total, min(1.0, said.norms * said.per_norm), rel_tol=TOLERANCE):
        found.append(f"failure_probability.total {said.total:g} is not {said.norms} norms at {said.per_norm:g} each")
    return found


def _arithmetic(record: Record) -> list[str]:
    """Unit roundoff and statement follow from the dtype in which the network executes."""
    said = record.contents.arithmetic
    units = {str(dtype).removeprefix("torch."): arithmetic.unit for dtype, arithmetic in ARITHMETIC.items()}
    if said.executed not in units:
        return [f"arithmetic.executed is {said.executed!r}, not one of {', '.join(units)}"]
    expected = Arithmetic.of(said.executed, units[said.executed])
    return [
        f"arithmetic.{key} of {said.executed} is not {asdict(said)[key]!r}"
        for key, value in asdict(expected).items()
        if asdict(said)[key] != value
    ]


def _execution(record: Record) -> list[str]:
    """The switches of torch are such that rounding bounds cover what is executed."""
    said = record.contents.execution
    if said is None:
        return ["execution is not stated, as in records of older versions; certify the network anew"]
    found = [f"execution.{field}, by which {what}" for field, what, _ in uncovered(said)]
    if said.threads < 1:
        found.append(f"execution.threads is {said.threads}")
    if not all(map(math.isfinite, _numbers(said.torch)[:2])):
        found.append(f"execution.torch {said.torch!r} is no version")
    return found


def _remarks(record: Record) -> list[str]:
    """Nothing follows from times and versions; they can still be impossible."""
    contents = record.contents
    parts = [stage.seconds for stage in contents.stages]
    found = [f"stages.{each.name}.seconds is {each.seconds:g}" for each in contents.stages if each.seconds < 0]
    if not sum(parts) <= contents.seconds * (1 + TOLERANCE):
        found.append(f"seconds is {contents.seconds:g}, stages.seconds add up to {sum(parts):g}")
    if _numbers(contents.lipcert_version) > _numbers(__version__):
        found.append(f"lipcert_version {contents.lipcert_version!r} is after this one, {__version__}")
    return found


def _numbers(version: str) -> list[float]:
    """Return the numbers of a version; what is none counts as later than any."""
    return [int(part) if part.isdecimal() else math.inf for part in version.split(".")]
