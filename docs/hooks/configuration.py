"""The configuration reference, written from the schema and from the comments of conf/ while the site is built.

A setting's type comes from `lipcert.system.schema`, its default and its meaning from the YAML file that sets it.
"""

from __future__ import annotations

import ast
import dataclasses
import re
import typing
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

from lipcert.system import schema

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
LINE = re.compile(r"^( *)([\w/]+):(?: +(.*?))?(?: +# (.*))?$")
COMMANDS = {
    "certify": schema.CertifyConfig,
    "soundness": schema.SoundnessConfig,
    "audit": schema.AuditConfig,
    "benchmark": schema.BenchmarkConfig,
}
DESCRIBED = ("recipe", "scale/data")
"""Groups that nobody chooses: others pick their options."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """A line of a YAML file: value and comment, as they are written."""

    value: str
    comment: str


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the tables where the page says so."""
    return (
        re.sub(r"^<!-- (\w+) -->$", lambda mark: PARTS[mark[1]](), markdown, flags=re.MULTILINE)
        if (page.file.src_uri == "configuration.md")
        else markdown
    )


def settings_of(path: Path) -> dict[str, Setting]:
    """Return the settings of a YAML file by dotted key, up to Hydra's own."""
    found: dict[str, Setting] = {}
    parents: list[tuple[int, str]] = []
    for text in path.read_text().split("\nhydra:")[0].splitlines():
        line = LINE.match(text)
        if line is None or line[2] == "defaults":
            continue
        indent = len(line[1])
        parents = [each for each in parents if each[0] < indent]
        key = ".".join([*(name for _, name in parents), line[2]])
        value, comment = line[3] or "", line[4] or ""
        if value.startswith("#"):
            value, comment = "", value.removeprefix("# ")
        found[key] = Setting(value, comment)
        parents.append((indent, line[2]))
    return found


def summary(target: str) -> str:
    """Return the first sentence of the docstring of a class of lipcert.losses."""
    for path in sorted((ROOT / "lipcert" / "losses").glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and node.name == target.rpartition(".")[2]:
                return re.split(r"[.;] |\.$|\n", ast.get_docstring(node) or "")[0]
    return ""


def heading(path: Path) -> str:
    """Return what an option is: of a method the docstring, else the comment that opens its file."""
    settings = settings_of(path)
    if "_target_" in settings and path.parent.name == "method" and path.stem != "gloro_published":
        return summary(settings["_target_"].value)
    lines = [line.removeprefix("#").strip() for line in path.read_text().splitlines() if line.startswith("#")]
    text = " ".join(line for line in lines if not line.startswith("@package"))
    return re.split(r"(?<=[^A-Z].)[.;] |\s(?:Command|Baseline|Hardware):", text)[0].removeprefix("Source:").strip(" .")


def kind(hint: object) -> str:
    """Return a type as a reader takes it: `number or null`."""
    arguments = typing.get_args(hint)
    if type(None) in arguments:
        return " or ".join(kind(each) for each in arguments if each is not type(None)) + " or null"
    if typing.get_origin(hint) is list:
        return "list"
    names = {int: "whole number", float: "number", str: "text", bool: "true or false"}
    return names.get(hint, "")  # type: ignore[call-overload]


def types_of(section: type) -> dict[str, str]:
    """Return the types of a dataclass of the schema by name."""
    hints = typing.get_type_hints(section)
    return {each.name: kind(hints[each.name]) for each in dataclasses.fields(section)}


def row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def code(text: str) -> str:
    return f"`{text}`" if text else ""


def table(settings: dict[str, Setting], types: dict[str, str], prefix: str = "") -> list[str]:
    lines = [row("key", "type", "default", "meaning"), row(*["---"] * 4)]
    for key, setting in settings.items():
        lines.append(row(code(prefix + key), types.get(key, ""), code(setting.value), setting.comment))
    return lines


def options_of(group: str) -> list[Path]:
    return sorted((CONF / group).glob("*.yaml"))


def groups() -> str:
    """One row a group: default and options."""
    defaults = dict(re.findall(r"^  - (?:optional )?([\w/]+): (\S+)", (CONF / "train.yaml").read_text(), re.MULTILINE))
    lines = [row("group", "default", "options"), row("---", "---", "---")]
    for name, default in defaults.items():
        if name not in DESCRIBED:
            chosen = "of the data" if "$" in default else code(default)
            options = ", ".join(code(path.stem) for path in options_of(name))
            lines.append(row(f"[{code(name)}](#{name})", chosen, options))
    return "\n".join(lines)


def details() -> str:
    """One section a group: what each option is, and the settings that all or single options have."""
    lines: list[str] = []
    sections = typing.get_type_hints(schema.TrainConfig)
    for group in re.findall(r"^  - (?:optional )?(\w+): ", (CONF / "train.yaml").read_text(), re.MULTILINE):
        if group in DESCRIBED:
            continue
        lines += [f"### {group}", ""]
        types = types_of(sections[group]) if dataclasses.is_dataclass(sections.get(group)) else {}
        described = [path for path in options_of(group) if heading(path)]
        if described:
            lines += [row("option", "what it is"), row("---", "---")]
            lines += [row(code(f"{group}={path.stem}"), heading(path)) for path in described] + [""]
        lines += group_settings(group, types)
    return "\n".join(lines)


def group_settings(group: str, types: dict[str, str]) -> list[str]:
    """Return the table of a group's settings: each once, with the options that have it; of methods one an option."""
    if group in ("experiment", "sweep", "scale", "callbacks", "logger"):
        return []
    found = {path.stem: settings_of(path) for path in options_of(group)}
    if group != "method":
        shared: dict[str, Setting] = {}
        for key in dict.fromkeys(key for settings in found.values() for key in settings):
            having = {option: settings[key] for option, settings in found.items() if key in settings}
            inside = any(other.startswith(f"{key}.") for settings in found.values() for other in settings)
            shown = group == "model" or not key.startswith("_")  # what builds a network is to be chosen
            if key != "name" and shown and not inside:
                values = {each.value for each in having.values()}
                comment = next((each.comment for each in having.values() if each.comment), "")
                only = "" if len(having) == len(found) else f" ({', '.join(map(code, having))})"
                shared[key] = Setting(values.pop() if len(values) == 1 else "", comment + only)
        return [*table(shared, types, f"{group}."), ""] if shared else []
    lines = [row("option", "key", "default", "meaning"), row(*["---"] * 4)]
    for option, settings in found.items():
        for key, value in settings.items():
            if not key.startswith("_") and key != "name":
                lines.append(row(code(f"{group}={option}"), code(f"{group}.{key}"), code(value.value), value.comment))
    return [*lines, ""] if len(lines) > 2 else []


def top() -> str:
    """Settings that belong to no group: single ones, the schedule, the evaluation."""
    settings = settings_of(CONF / "train.yaml")
    sections = typing.get_type_hints(schema.TrainConfig)
    types = types_of(schema.TrainConfig)
    for section in ("schedule", "evaluation"):
        types |= {f"{section}.{key}": value for key, value in types_of(sections[section]).items()}
    leaves = {key: each for key, each in settings.items() if not any(other.startswith(f"{key}.") for other in settings)}
    return "\n".join(table(leaves, types))


def command(name: str) -> str:
    settings = settings_of(CONF / f"{name}.yaml")
    types = types_of(COMMANDS[name])
    nested = {"data.root": "data_root", "data.limit_test": "limit", "model.activation": "activation"}
    leaves = {key: each for key, each in settings.items() if key not in nested and key not in ("data", "model")}
    return "\n".join(table(leaves, types))


PARTS = {
    "groups": groups,
    "details": details,
    "top": top,
    "certify": lambda: command("certify"),
    "soundness": lambda: command("soundness"),
    "audit": lambda: command("audit"),
    "benchmark": lambda: command("benchmark"),
}
"""What stands on the page in place of <!-- NAME -->."""
