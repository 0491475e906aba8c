"""What Hydra is told: where the files are, schemas, resolvers, rows of tables; unknown settings are refused."""

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from lipcert.system.overrides import job_folder, sweep_folder
from lipcert.system.schema import (
    AuditConfig,
    BenchmarkConfig,
    CertifyConfig,
    MeasureConfig,
    SoundnessConfig,
    TrainConfig,
)

OPEN = ("trainer", "model")
"""Groups that take more settings than the schema names: Lightning's trainer and builders of networks know their own."""

BUILT_IN = "lipcert.nn.build"
"""What builds the published architectures, whose settings the schema names."""

OURS = (BUILT_IN, *(f"lipcert.nn.{name}" for name in ("liresnet", "lipconvnet", "mlp")))
"""All that builds networks of lipcert: no code of somebody else's."""

ROWS = "rows.yaml"
"""A table of experiments, a folder of `conf/experiment`: each line is one, `experiment=TABLE/ROW`, on `base.yaml`."""


MEANT = {
    **dict.fromkeys(("epochs", "epoch", "max_epochs", "trainer.max_epochs", "trainer.epochs"), "schedule.epochs"),
    **dict.fromkeys(("lr", "learning_rate", "optimizer.lr", "schedule.lr"), "schedule.initial_lr"),
    **dict.fromkeys(("batch", "data.batch_size", "bs"), "batch_size"),
    **dict.fromkeys(("gpus", "devices", "trainer.gpus"), "trainer.devices"),
    **dict.fromkeys(("eps", "method.epsilon"), "epsilon"),
    **dict.fromkeys(("data_root", "root"), "data.root"),
}
"""What is meant by names that other programs use."""


def unknown_setting(name: str, known: Sequence[str]) -> str:
    """Return a sentence about a setting, by its dotted name, that is none of those `known` in its group."""
    group, dot, key = name.rpartition(".")
    if name in MEANT:
        return f"There is no setting `{name}`: did you mean `{MEANT[name]}`?"
    alike = difflib.get_close_matches(key, known, 1)
    hint = f"did you mean `{group}{dot}{alike[0]}`?" if alike else f"expected one of {', '.join(known)}."
    return f"There is no setting `{name}`: {hint}"


def refuse_unknown(config: DictConfig, group: str = "") -> None:
    """Refuse settings that the schema does not know, which `+KEY=VALUE` adds.

    Raises:
        ValueError: for the first of them, with the known setting that is spelt most alike.
    """
    schema = OmegaConf.get_type(config)
    published = group == "model" and config.get("builder") is None and config.get("_target_") in (None, BUILT_IN)
    if (group in OPEN and not published) or not is_dataclass(schema):
        return
    for key in map(str, config):
        name = f"{group}.{key}" if group else key
        if key not in {each.name for each in fields(schema)}:
            raise ValueError(unknown_setting(name, [each.name for each in fields(schema)]))
        if not OmegaConf.is_missing(config, key) and isinstance(config[key], DictConfig):
            refuse_unknown(config[key], name)


def config_folder() -> str:
    """Return the folder of the configuration files: inside an installed package, else the repository's."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "conf"
    return str(packaged if packaged.is_dir() else package.parent / "conf")


def read_rows(table: Path) -> dict[str, list[str]]:
    """Return the overrides of each row of a table, a folder, by the row's name and in the order of the file."""
    lines: dict[str, str] = yaml.safe_load((table / ROWS).read_text(encoding="utf-8"))
    return {row: line.split() for row, line in lines.items()}


def experiments(conf: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield table, row and content of each experiment that is a row: what a file `TABLE/ROW.yaml` would hold.

    Args:
        conf: folder of the configuration files; the folders in it are the groups whose options a row can choose.
    """
    for table in sorted(path.parent for path in (conf / "experiment").glob(f"*/{ROWS}")):
        for row, overrides in read_rows(table).items():
            groups = [each for each in overrides if (conf / each.partition("=")[0]).is_dir()]
            options = [{f"override /{group}": option} for group, _, option in (each.partition("=") for each in groups)]
            settings: Any = OmegaConf.from_dotlist([each for each in overrides if each not in groups])
            yield table.name, row, {"defaults": [f"/experiment/{table.name}/base", *options, "_self_"], **settings}


def when(value: Any, *cases: Any) -> Any:
    """Return what is said for a value: `when(value, EXPECTED, THEN, ..., OTHERWISE)`; EXPECTED may be a list."""
    for expected, then in zip(cases[::2], cases[1::2], strict=False):
        if value == expected or (isinstance(expected, list) and value in expected):
            return then
    return cases[-1]


def own_name(builder: str | None, target: str | None) -> str:
    """Return what a network of one's own is called, after what builds it."""
    return (builder or target or "own").replace(":", ".")


SCHEMAS = {
    "schema": TrainConfig,
    "benchmark_schema": BenchmarkConfig,
    "certify_schema": CertifyConfig,
    "soundness_schema": SoundnessConfig,
    "measure_schema": MeasureConfig,
    "audit_schema": AuditConfig,
}
"""Schema of each command, by its name in defaults lists."""

_SCHEDULED = {"_partial_": True, "lr": "${schedule.initial_lr}"}
_AROUND_BLOCKS = {
    "builder": None,
    "activation": "maxmin",
    "threshold": None,
    "parametrization": None,
    "orthogonal": "bro",
}

OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "optimizer": {
        "adamw": {**_SCHEDULED, "_target_": "torch.optim.AdamW", "weight_decay": 0.01},
        "nadam": {**_SCHEDULED, "_target_": "torch.optim.NAdam", "weight_decay": 0.0},
        "sgd": {**_SCHEDULED, "_target_": "torch.optim.SGD", "weight_decay": 0.0, "momentum": 0.9, "nesterov": True},
        "lookahead": {
            **_SCHEDULED,
            "_target_": "lipcert.training.lookahead.Lookahead",
            "base": {"_target_": "torch.optim.Adam", "_partial_": True, "weight_decay": 0.0},
            "every": 6,
            "share": 0.5,
        },
    },
    "method": {
        "la": {
            "_target_": "lipcert.losses.LA",
            "floor": 0.01,
            "offset": 2.0,
            "temperature": 0.75,
            "exponent": 5.0,
            "box": True,
        },
    },
    "model": {
        "liresnet": {**_AROUND_BLOCKS, "depth": 4, "width": 64, "features": 256, "patch": 2},
        "lipconvnet": {**_AROUND_BLOCKS, "depth": 4, "width": 32, "features": 256},
        "mlp": {**_AROUND_BLOCKS, "depth": 3, "width": 256},
    },
}
"""Options of groups besides those that are files. The schedule sets the learning rate of optimizers; models are those
of `lipcert.nn` of the same name, and threshold and parametrization, which they do not have, stay null."""

RESOLVERS: dict[str, Callable[..., Any]] = {
    "half": lambda number: float(number) / 2,
    "times": lambda first, second: float(first) * float(second),
    "when": when,
    "rows": lambda table: ",".join(f"{table}/{row}" for row in read_rows(Path(config_folder(), "experiment", table))),
    "monitored": lambda held_out: "val/certified_accuracy" if held_out else None,
    "own_name": own_name,
    "sweep_folder": sweep_folder,
    "job_folder": job_folder,
}
"""Functions that configuration files call: `${half:${.epochs}}`."""


@cache
def register() -> None:
    """Make schemas, resolvers and the experiments that are rows of a table known to Hydra and OmegaConf."""
    store = ConfigStore.instance()
    for name, schema in SCHEMAS.items():
        whole = OmegaConf.structured(schema)
        if "model" in whole:
            OmegaConf.set_struct(whole._get_node("model"), False)  # `refuse_unknown` looks at its keys
        store.store(name=name, node=whole)
    for group, options in OPTIONS.items():
        for name, settings in options.items():
            node = {"name": name, "_target_": f"lipcert.nn.{name}", **settings} if group == "model" else settings
            store.store(group=group, name=name, node=node)
    for name, resolver in RESOLVERS.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)
    for table, row, content in experiments(Path(config_folder())):
        store.store(group=f"experiment/{table}", name=row, package="_global_", node=content)
