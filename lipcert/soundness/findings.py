"""The findings of a soundness run, and how they are written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lipcert.soundness.attacked import AttackOutcome
from lipcert.soundness.norms import NormsOutcome
from lipcert.soundness.precision import PrecisionOutcome
from lipcert.soundness.rounding import RoundingOutcome
from lipcert.system.files import write_json

NAME = "soundness.json"


class RefutedError(ArithmeticError):
    """Something that was certified is not so."""


@dataclass(frozen=True)
class Findings:
    """Outcome of all parts, on the first `images` test images, of which `certified` were.

    `about`: network, data, radius and settings, as JSON values. `rounding`, `precision`: None where nothing was
    certified.
    """

    about: Mapping[str, Any]
    images: int
    certified: int
    certify_seconds: float
    norms: NormsOutcome
    attacks: tuple[AttackOutcome, ...]
    rounding: RoundingOutcome | None
    precision: PrecisionOutcome | None

    @property
    def refutations(self) -> list[str]:
        """A sentence for everything that is refuted."""
        sentences = [*self.norms.refutations]
        for part in (*self.attacks, self.rounding, self.precision):
            sentences += part.refutations if part is not None else ()
        return sentences


def _finite(value: Any) -> Any:
    """Return JSON values with None for numbers that JSON has not."""
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_findings(findings: Findings, folder: Path) -> None:
    """Write `soundness.json`, in place of an earlier one.

    Raises:
        OSError: if `folder` cannot be written.
    """
    parts = asdict(findings)
    content = {**parts.pop("about"), "refuted": findings.refutations, **parts}
    write_json(folder / NAME, _finite(content))
