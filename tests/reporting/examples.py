"""Folders of runs, written by hand: results, curves, configuration, measurements."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import torch
import yaml

from lipcert.jobs.measure import as_png
from lipcert.records import Data, FailureProbability, Model
from lipcert.records.measurement import (
    NOT_CONVERGED,
    Attack,
    Convergence,
    ConvergenceRow,
    Header,
    ImageRow,
    write_measurement,
)

RESULTS: dict[str, Any] = {
    "data": "digits",
    "model": "small",
    "activation": "clipped_relu",
    "method": "gloro",
    "bound": "local",
    "seed": 0,
    "epsilon": 0.3,
    "num_test": 360,
    "clean_accuracy": 0.9137,
    "pgd_accuracy": 0.8211,
    "certified_accuracy": 0.7043,
    "certified_accuracy_by_bound": {"local": 0.7043, "global": 0.6589, "tight": 0.7182},
    "failure_probability": 2.5e-7,
    "global_lipschitz": 4.3127,
    "local_lipschitz_mean": 3.1415,
    "varying_fraction": {"1": 0.99, "10": 0.43},
    "seconds_per_epoch": 1.75,
    "epochs": 3,
    "lipcert_version": "0.1.0",
}

CONFIGURATION: dict[str, Any] = {
    "data": {"name": "digits", "root": None},
    "model": {"name": "small", "activation": "clipped_relu"},
    "method": {"_target_": "lipcert.losses.GloRo"},
    "bound": {"name": "local"},
    "sparsity": {"weight": 0.0},
    "schedule": {"epochs": 3},
    "evaluation": {"checkpoint": "last"},
    "logger": {"csv": {"save_dir": "${hydra:runtime.output_dir}"}},
    "seed": 0,
    "epsilon": 0.3,
}

METRICS = """epoch,lipschitz/global,lipschitz/local,step,val/certified_accuracy,val/clean_accuracy,varying/1,varying/10
0,9.5,7.25,9,,,0.9,0.5
1,6.5,5.25,19,0.25,0.75,0.95,0.4
2,4.5,3.25,29,0.5,0.875,0.99,0.3
"""


def write_run(
    folder: Path, configuration: dict[str, Any] | None = None, metrics: str | None = METRICS, **changes: Any
) -> Path:
    """Write a finished run: `RESULTS` with changes, in the configuration as well where it has the key."""
    results = {**RESULTS, **changes}
    settings = {**CONFIGURATION, "seed": results["seed"], "epsilon": results["epsilon"]}
    settings |= {"data": {"name": results["data"]}, "bound": {"name": results["bound"]}}
    settings |= {"method": {"_target_": f"lipcert.losses.{results['method']}"}, **(configuration or {})}
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(settings))
    (folder / "results.json").write_text(json.dumps(results))
    if metrics is not None:
        (folder / "metrics.csv").write_text(metrics)
    return folder


HEADER = Header(
    lipcert_version="0.1.0",
    checkpoint="run/checkpoints/last.ckpt",
    model=Model("a" * 64, "float32", {}),
    data=Data("digits", "test", 4, (1, 2, 2), 3, ""),
    epsilon=0.3,
    bounds=("global", "local"),
    arithmetic="Certificates hold for float32.",
    failure_probability=FailureProbability(1e-9, 7, 7e-9),
    attack=Attack(5, 1, 0),
    radii=(0.15, 0.3, 0.6),
    convergence=Convergence(4, 1e-3, 50, 0),
    thumbnails=(0, 1),
    seconds=1.5,
)

IMAGES = (
    ImageRow(0, 2, 2, 2, float("inf"), 1.25, 2.0, (0.45, 0.61)),
    ImageRow(1, 1, 1, 0, 0.3, -0.5, 2.0, (0.1, 0.16)),
    ImageRow(2, 0, 1, 1, 0.0, -2.0, 2.0, (0.0, 0.0)),
    ImageRow(3, 0, 0, 0, 0.6, 0.125, 2.0, (0.2, 0.3)),
)

CONVERGENCE = (
    ConvergenceRow("1", 7, 3),
    ConvergenceRow("1", 12, 1),
    ConvergenceRow("10", NOT_CONVERGED, 1),
    ConvergenceRow("10", 20, 3),
)


def write_measured(run: Path, name: str = "last") -> Path:
    """Write the example of a measurement into a run."""
    folder = run / "measurements" / name
    folder.mkdir(parents=True)
    write_measurement(
        folder, HEADER, IMAGES, CONVERGENCE, {0: as_png(torch.zeros(1, 2, 2)), 1: as_png(torch.ones(1, 2, 2))}
    )
    return folder


class Page(HTMLParser):
    """A page taken apart: tables by title, tiles by key, ids, what it loads, its visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.tiles: dict[str, str] = {}
        self.ids: list[str] = []
        self.loaded: list[str] = []
        self.tags: list[str] = []
        self.pictures: list[str] = []
        self.labels: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self._tile = ""
        self._title = ""
        self.feed(text)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.ids += [values["id"]] if "id" in values else []
        self.loaded += [
            values[name] for name in ("src", "href", "xlink:href", "action", "data", "poster") if name in values
        ]
        if tag not in ("meta", "link", "img", "br", "path", "use", "rect"):
            self._open.append(tag)
        if "aria-label" in values:
            self.labels.append(values["aria-label"])
            if values.get("role") == "region":
                self._title = values["aria-label"]
                self.tables.setdefault(self._title, [])
        if "data-key" in values and tag == "div":
            self._tile = values["data-key"]
        if "data-key" in values and tag == "figure":
            self.pictures.append(values["data-key"])
        if tag == "tr":
            self.tables[self._title].append([])
        if tag in ("th", "td"):
            self.tables[self._title][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.words.append(data)
        if self._open and self._open[-1] in ("th", "td"):
            self.tables[self._title][-1][-1] += data
        if "dd" in self._open and self._tile:
            self.tiles[self._tile] = (self.tiles.get(self._tile, "") + data).strip()
