"""A small record: three images at two epsilons, two stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lipcert.records import (
    Arithmetic,
    Batch,
    Contents,
    Data,
    FailureProbability,
    Model,
    NormBracket,
    Record,
    Row,
    StageTally,
    StageWork,
    write_record,
)
from lipcert.system.switches import Execution

EPSILONS = (0.1, 0.25)


def row(index: int, epsilon: float, **changes: Any) -> Row:
    """Return a row of class 1, certified by the stage `fast` unless changed."""
    values: dict[str, Any] = {
        "label": 1,
        "prediction": 1,
        "margin": 0.1 + 0.2 * index,
        "certified": True,
        "lipschitz": 1 / 3,
        "radius": 0.25,
        "rounding": 1e-7,
        "stage": "fast",
        **changes,
    }
    return Row(index=index, epsilon=epsilon, **values)


REFUSED: dict[str, Any] = {"certified": False, "stage": "", "radius": 0.0, "margin": float("-inf")}

ROWS = (
    row(0, 0.25, stage="slow"),
    row(0, 0.1, stage="slow"),
    row(1, 0.1, **REFUSED, prediction=0),
    row(1, 0.25, **REFUSED, prediction=0),
    row(2, 0.1, radius=0.1),
    row(2, 0.25, **REFUSED),
)

EXECUTION = Execution(
    "2.14.1+cpu",
    "cpu",
    2,
    False,
    "none",
    "ieee",
    cudnn=True,
    onednn=True,
    nnpack=True,
    environment="",
    flush_denormal=False,
)

CONTENTS = Contents(
    lipcert_version="0.1.0",
    checkpoint="run/best.ckpt",
    model=Model("a" * 64, "float32", {"model": "small", "epsilon": 0.25}),
    data=Data("digits", "test", 3, (1, 8, 8), 10, "b" * 64),
    epsilons=EPSILONS,
    clip_input=False,
    arithmetic=Arithmetic("float32", 2.0**-24, "Rounding is taken off."),
    execution=EXECUTION,
    failure_probability=FailureProbability(1e-9, 12, 1.2e-8),
    stages=(StageTally("fast", "global", 60, 4, 1, 0.5), StageTally("slow", "tight", 80, 3, 2, 1.5)),
    norms={"0": NormBracket(0.99, 1.01), "3": NormBracket(2.0, 2.0)},
    seconds=2.25,
)


def written(folder: Path) -> Record:
    """Write the example into a folder."""
    return write_record(folder, CONTENTS, ROWS)


def batch(first: int, count: int = 2) -> Batch:
    """Return a finished batch of the images from `first` on, at one epsilon."""
    return Batch(
        count=count,
        rows=tuple(row(first + each, 0.1) for each in range(count)),
        norms_bounded=3 * count,
        stages=(StageWork(count, count, 0.1 + first),),
        norms={"0": NormBracket(0.1 + 0.2, 1.01)},
        seconds=0.3,
    )
