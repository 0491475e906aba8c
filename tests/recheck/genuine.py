"""A genuine record with rows of every kind, and forgers who renew whatever follows from what they changed."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from hydra.core.global_hydra import GlobalHydra
from torch import nn

from lipcert.commands.certify import main
from lipcert.commands.check import arguments, check
from lipcert.data import load_images
from lipcert.records.format import COLUMNS
from lipcert.records.typed_text import from_csv, to_csv

BUILDER = "tests.recheck.genuine:make"
COUNT, EPSILONS = 12, (0.05, 0.3)
Content = dict[str, Any]
Rows = list[dict[str, Any]]


def make() -> nn.Sequential:
    """Return the untrained network; the norm of its second map is bounded with high probability only."""
    layers = (nn.Linear(64, 150), nn.ReLU(), nn.Linear(150, 140), nn.ReLU(), nn.Linear(140, 10))
    return nn.Sequential(nn.Flatten(), *layers)


@dataclass(frozen=True)
class Genuine:
    """A record in a folder beside its checkpoint."""

    folder: Path

    def check(self, content: Content, rows: Rows, *options: str) -> None:
        """Check a record with this content and these rows; raise as `lipcert.check` does."""
        text = to_csv(COLUMNS, [row.values() for row in rows])
        (self.folder / "certificates.csv").write_text(text)
        renewed = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "count": len(rows)}
        said = content["rows"]
        content["rows"] = {**said, **{key: renewed[key] for key in renewed if said.get(key) == "renewed"}}
        path = self.folder / "certificate.json"
        path.write_text(json.dumps(content))
        words = [str(path), "--checkpoint", str(self.folder / "mine.pt"), "--builder", BUILDER, *options]
        check(arguments(words), lambda line: None)

    def read(self) -> tuple[Content, Rows]:
        """Return the content, whose digest and count of rows are to be renewed, and the rows."""
        content = json.loads((self.folder / "genuine.json").read_text())
        content["rows"] |= {"sha256": "renewed", "count": "renewed"}
        lines = from_csv((self.folder / "genuine.csv").read_text(), COLUMNS)
        return content, [dict(zip(COLUMNS, line, strict=True)) for line in lines]


def certified(folder: Path, *more: str) -> Genuine:
    """Train the network for a moment and certify a few images, with `more` settings."""
    torch.manual_seed(0)
    model, train = make(), load_images("digits").train
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(60):
        images, labels = train[torch.randint(len(train), (128,))]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    torch.save(model.state_dict(), folder / "mine.pt")
    settings = [f"checkpoint={folder / 'mine.pt'}", f"builder={BUILDER}", "data=digits", f"output={folder}"]
    settings += [f"epsilon={','.join(map(str, EPSILONS))}", f"limit={COUNT}", "clip_input=true", *more]
    GlobalHydra.instance().clear()
    with mock.patch.object(sys, "argv", ["lipcert.certify", *settings]), contextlib.redirect_stdout(io.StringIO()):
        main()
    (folder / "certificate.json").rename(folder / "genuine.json")
    (folder / "certificates.csv").rename(folder / "genuine.csv")
    return Genuine(folder)


def renew(content: Content, rows: Rows) -> None:
    """Let totals and tallies follow from the rows."""
    names = [stage["name"] for stage in content["stages"]]
    for total in content["totals"]:
        mine = [row for row in rows if row["epsilon"] == total["epsilon"]]
        total["num_images"] = len(mine)
        total["clean_accuracy"] = sum(row["label"] == row["prediction"] for row in mine) / len(mine)
        total["certified_accuracy"] = sum(row["certified"] for row in mine) / len(mine)
        total["certified_by_stage"] = {name: sum(row["stage"] == name for row in mine) for name in names}
    first = [row for row in rows if not any(_certifies(other, row) for other in rows)]
    for place, stage in enumerate(content["stages"]):
        stage["certified"] = sum(row["stage"] == stage["name"] for row in first)
        open_rows = [row for row in first if row["stage"] in ("", *names[place:])]
        stage["entered"] = sum(place == 0 or row["label"] == row["prediction"] for row in open_rows)


def _certifies(other: dict[str, Any], row: dict[str, Any]) -> bool:
    """Tell whether a row certifies the image of another at a larger epsilon."""
    return bool(other["certified"] and other["index"] == row["index"] and other["epsilon"] > row["epsilon"])


Forgery = Callable[[Content, Rows], object]
