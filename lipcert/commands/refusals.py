"""What is said of an error: one sentence with what to type, for those of Hydra and OmegaConf, too."""

import re
import types
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

from lipcert.system.configuration import unknown_setting
from lipcert.system.errors import NO_ROOM, reason_of, sentence_of

KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
"""How types of settings are called."""


def refusal(error: BaseException) -> str:
    """Return an error's sentence and the notes added to it."""
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _of_settings(error)
    message = sentence_of(error)
    if isinstance(error, OSError) and error.strerror and error.filename:
        room = "Make room; what was written before is kept."
        message += f" {room if error.errno in NO_ROOM else 'Choose another folder (hydra.run.dir=...) or file.'}"
    return " ".join([message, *getattr(error, "__notes__", [])])


def _of_settings(error: HydraException | OmegaConfBaseException) -> str:
    """Return a sentence about a setting that Hydra or OmegaConf refuses."""
    cause: Any = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    text = " ".join(str(error).split())
    if isinstance(error, MissingConfigException) and error.options is not None and error.missing_cfg_file:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return f"There is no {group}={option}: expected one of {', '.join(error.options)}."
    if isinstance(error, InstantiationException) and (named := re.search(r"target '(.*?)'", text)):
        key = re.search(r"full_key: (\S+)", text)
        where = f"`{key[1]}._target_`={named[1]}" if key else named[1]
        if text.startswith("Error locating"):
            return f"{where} cannot be imported: expected package.module.Class, of a package that is installed."
        return f"{where} refuses its settings: {reason_of(error.__cause__ or error)}"
    if isinstance(error, OverrideParseException):
        typed = str(error.override)
        if Path(typed).is_dir():
            return f"{typed} is a folder; to go on with the run in it, type hydra.run.dir={typed} resume=auto."
        return (
            f"{typed} cannot be read: expected KEY=VALUE. Put quotes around values with other characters than letters, "
            "digits and ./-_: \"KEY='VALUE'\"."
        )
    if several := re.match(r"Ambiguous value for argument '(.*?)' 1\.", text):
        return f"{several[1]} holds several values; add -m for a sweep, or brackets for a list, KEY=[one,two]."
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.full_key:
        return unknown_setting(str(cause.full_key), _names(cause))
    if isinstance(cause, ValidationError) and cause.full_key:
        found = re.search(r"=(.*)$", text) if cause is not error else None
        got = f", got {found[1] or 'nothing'}" if found else ""
        return f"Expected `{cause.full_key}` to be {_kind(cause)}{got}."
    if missing := re.match(r"Missing mandatory value: (\S+)", text):
        return f"`{missing[1]}` is missing; type {missing[1]}=VALUE."
    return f"{text} ({error.__cause__})" if error.__cause__ and str(error.__cause__) not in text else text


def _names(cause: OmegaConfBaseException) -> list[str]:
    """Return the settings that there are where one was not found."""
    if is_dataclass(cause.object_type):
        return [each.name for each in fields(cause.object_type)]
    parent: Any = cause.parent_node
    return [str(each) for each in parent or () if not str(each).startswith("_")]


def _kind(cause: OmegaConfBaseException) -> str:
    """Return what a setting has to be."""
    known = fields(cause.object_type) if is_dataclass(cause.object_type) else ()
    kind: Any = next((each.type for each in known if each.name == str(cause.key)), Any)
    optional = get_origin(kind) in (Union, types.UnionType)
    kinds = [each for each in get_args(kind) if each is not type(None)] if optional else [kind]
    if is_dataclass(kinds[0]):
        return f"set by what is in it, {cause.full_key}.NAME=VALUE"
    said = "a list, [one,two]" if get_origin(kinds[0]) is list else KINDS.get(kinds[0], "another value")
    return f"{said} or null" if optional else said
