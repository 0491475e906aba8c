"""Tables of experiments: each line of `conf/experiment/TABLE/rows.yaml` is an experiment, `experiment=TABLE/ROW`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

FILE = "rows.yaml"


def read_rows(table: Path) -> dict[str, list[str]]:
    """Return the overrides of each row of a table, by the row's name and in the order of the file.

    Args:
        table: folder of the table; `base.yaml` beside its rows holds what they share.
    """
    lines: dict[str, str] = yaml.safe_load((table / FILE).read_text(encoding="utf-8"))
    return {row: line.split() for row, line in lines.items()}


def experiments(conf: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield table, row and content of each experiment that is a row: what a file `TABLE/ROW.yaml` would hold.

    Args:
        conf: folder of the configuration files; the folders in it are the groups whose options a row can choose.
    """
    for path in sorted((conf / "experiment").glob(f"*/{FILE}")):
        table = path.parent.name
        for row, overrides in read_rows(path.parent).items():
            yield table, row, _content(f"/experiment/{table}/base", overrides, conf)


def _content(base: str, overrides: list[str], conf: Path) -> dict[str, Any]:
    """Return a defaults list of the base and the options that are chosen, and the settings."""
    defaults: list[Any] = [base]
    settings: list[str] = []
    for override in overrides:
        key, _, value = override.partition("=")
        if (conf / key).is_dir():
            defaults.append({f"override /{key}": value})
        else:
            settings.append(override)
    written: Any = OmegaConf.to_container(OmegaConf.from_dotlist(settings))
    return {"defaults": [*defaults, "_self_"], **written}
