"""`--help`: groups, settings and examples at 80 columns, without importing what a run needs; Ctrl-C; unknown flags."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir

from lipcert.commands import check, dashboard
from lipcert.commands.application import run_command
from lipcert.system.configuration import config_folder, read_rows, register
from lipcert.system.help import asks_for_help, usage
from tests.running import python

CONF = Path(config_folder())
HYDRA = ("train", "certify", "soundness", "measure", "audit", "benchmark")
PLAIN: dict[str, Callable[[list[str]], object]] = {"check": check.arguments, "dashboard": dashboard.arguments}
HEAVY = ("torch", "torchvision", "pytorch_lightning", "numpy", "sklearn", "skimage", "wandb", "foolbox", "rich")


def _file(name: str) -> dict[str, Any]:
    return yaml.safe_load((CONF / f"{name}.yaml").read_text())


@pytest.mark.parametrize("name", HYDRA)
@pytest.mark.parametrize("columns", [60, 80, 120])
def test_lines_fit(name: str, columns: int) -> None:
    lines = usage(CONF, name, columns).splitlines()
    examples = [line for line in lines if line.startswith("  python -m")]
    assert len(examples) >= 2
    assert max(len(line) for line in examples) <= 80
    assert max(len(line) for line in lines if line not in examples) <= max(columns, 68)  # of options in a column
    if columns == 80:
        assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("name", HYDRA)
def test_examples_compose(name: str) -> None:
    register()
    text = usage(CONF, name, 80).replace("\\\n", " ")
    commands = re.findall(rf"^  python -m lipcert\.{name}\b(.*)$", text, re.MULTILINE)
    assert len(commands) >= 2
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for command in commands:
            words = [word for word in shlex.split(command) if word != "-m"]
            compose(name, [word if "[" in word else word.split(",")[0] for word in words])


@pytest.mark.parametrize("name", HYDRA)
def test_all_settings_with_their_remarks(name: str) -> None:
    text = usage(CONF, name, 80)
    own = {key for key in _file(name) if key not in ("defaults", "hydra")}
    shown = re.findall(r"^  (\w+):(?= |$)", text.partition("\nSettings:\n")[2], re.MULTILINE)
    assert set(shown) == own
    assert len(shown) == len(own)
    whole = " ".join(text.split())
    for remark in re.findall(r"^\w.* # (.*)$", (CONF / f"{name}.yaml").read_text().partition("\nhydra:")[0], re.M):
        assert " ".join(remark.split()) in whole


def test_all_groups_and_options() -> None:
    text = usage(CONF, "train", 80).partition("\nGroups:\n")[2].partition("\nSettings:\n")[0]
    shown = dict(zip(*[iter(re.split(r"^  (\w+)", text, flags=re.MULTILINE)[1:])] * 2, strict=True))
    assert set(shown) == {path.name for path in CONF.iterdir() if path.is_dir()} - {"recipe"}  # picked automatically
    for group, said in shown.items():
        options = {path.stem for path in (CONF / group).glob("*.yaml")}
        assert options <= set(re.findall(r"[\w-]+", said)), group
    rows = read_rows(CONF / "experiment" / "comparison")
    assert list(rows) == re.findall(r"\w+", shown["experiment"].partition("comparison/NAME:")[2])
    assert shown["data"].startswith("=digits: images to learn from\n")
    assert shown["method"].startswith(": what is trained with")  # its default follows the data
    assert "smoke_digits" not in shown["scale"]


def test_what_asks_for_help() -> None:
    assert asks_for_help(["-h"])
    assert asks_for_help(["data=mnist", "--help"])
    assert not asks_for_help(["data=mnist", "-m", "--hydra-help"])


SHOW = """
import contextlib, io, json, runpy, sys

shown = {}
for name in sys.argv[1:]:
    sys.argv = [name, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.suppress(SystemExit):
        runpy.run_module(f"lipcert.{name}", None, "__main__")
    shown[name] = output.getvalue()
print(json.dumps({"shown": shown, "modules": sorted(sys.modules)}))
"""


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    done = python("-c", SHOW, *HYDRA, *PLAIN, cwd=tmp_path, COLUMNS="80")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    for name, text in said["shown"].items():
        assert "Exit codes: 0 " in text
        assert f"python -m lipcert.{name} " in text
        if name in HYDRA:
            assert text == usage(CONF, name, 80) + "\n"
    assert not [each for each in HEAVY if each in said["modules"]]
    assert "checkpoint=RUN/checkpoints/best.ckpt" in said["shown"]["certify"]
    assert "lipcert.commands" in said["modules"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("parse", PLAIN.values(), ids=PLAIN)
def test_a_command_line_that_does_not_fit(parse: Callable[[list[str]], object]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--nonsense"])
    assert ended.value.code == 2


def test_an_unknown_flag_of_a_hydra_application(tmp_path: Path) -> None:
    done = python("-m", "lipcert.train", "--nonsense", cwd=tmp_path)
    assert done.returncode == 2
    assert "--nonsense" in done.stderr
    assert list(tmp_path.iterdir()) == []


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt  # as SIGINT does, unless it is ignored, as in a shell's background


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the command, code 130 and a sentence; `train` says more, see `test_interruption`."""
    monkeypatch.setattr(check, "check", _interrupt)
    monkeypatch.setattr(dashboard, "dashboard", _interrupt)
    ways: list[tuple[Callable[[], object], str]] = [
        (lambda: run_command(_interrupt), "Stopped.\n"),
        (lambda: run_command(_interrupt, stopped="Stopped; later."), "Stopped; later.\n"),
        (lambda: check.main(["a.json", "--checkpoint", "a.ckpt"]), "Stopped; nothing is confirmed.\n"),
        (lambda: dashboard.main([]), "Stopped.\n"),
    ]
    for way, sentence in ways:
        with pytest.raises(SystemExit) as ended:
            way()
        assert ended.value.code == 130
        assert capsys.readouterr().err == sentence
