"""How the commands of the documentation are executed: one table, and what it refers to.

A command that no rule matches fails the test of its page. Cheap commands run as they stand or with smaller numbers;
trainings are composed and checked, and run where the page goes on with what they leave.
"""

from __future__ import annotations

import importlib
import re
import runpy
import shlex
import subprocess
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.documentation.composing import compose
from tests.documentation.pages import ROOT
from tests.documentation.processes import CommandError, in_a_process, run_module
from tests.running import QUICK

TINY = (*QUICK, "data.limit_train=64", "data.limit_test=10", "schedule.epochs=1", "evaluation.pgd_steps=2")
"""A training of a second or two."""

EXAMPLES = {"ITERATIONS": "2", "KIND": "shared", "SEED": "0"}
"""What a reader is to fill in. RUN is there: a folder of that name holds a trained run."""

OWN_DATA = {"data=corners", "data=imagefolder"}
"""Data that a page makes; limits of other data do not fit it."""


@dataclass(frozen=True)
class Place:
    """Where a command stands: the page, the folder it is typed in, and the text of the page behind it."""

    page: str
    folder: Path
    rest: str

    @property
    def of_an_experiment(self) -> bool:
        """Whether the page reports on a run of hours: its commands are only parsed."""
        return self.page.startswith("experiments/")


Action = Callable[[list[str], Place], None]


def as_it_stands(words: list[str], place: Place) -> None:
    run_module(words)


def certify(words: list[str], place: Place) -> None:
    """Certify six images, in place of a record that an earlier command of the page left."""
    if place.of_an_experiment:
        compose("certify", words)
    else:
        run_module(words, "limit=6", "overwrite=true")


def check(words: list[str], place: Place) -> None:
    """Derive two rows anew, always the same."""
    if place.of_an_experiment:
        parse(words, place)
    else:
        run_module(words, "--count", "2", "--seed", "0")


def soundness(words: list[str], place: Place) -> None:
    """Attack six images with little strength."""
    if place.of_an_experiment:
        compose("soundness", words)
    else:
        run_module(words, "limit=6", "norms=4", "steps=2", "restarts=1", "queries=4", "attacks=[pgd,random]")


def audit(words: list[str], place: Place) -> None:
    """Search for few steps, from few pairs."""
    run_module(words, "limit=6", "steps=10", "starts=4")


def export(words: list[str], place: Place) -> None:
    """Export the run on the page about it; parse elsewhere."""
    run_module(words) if place.page == "docs/export.md" else parse(words, place)


def benchmark(words: list[str], place: Place) -> None:
    compose("benchmark", words)


def parse(words: list[str], place: Place) -> None:
    """Let the command's `arguments` read its command line."""
    package, _, command = words[2].rpartition(".")
    importlib.import_module(f"lipcert.commands.{command}" if package == "lipcert" else words[2]).arguments(words[3:])


def report(words: list[str], place: Place) -> None:
    """Run where the folders are there and nothing is to be measured; parse otherwise."""
    folders = [each for each in words[3:] if not each.startswith("-") and each != "DIR"]
    if "--measure" in words or place.of_an_experiment or not all((place.folder / each).exists() for each in folders):
        parse(words, place)
    else:
        run_module(words)


def measure(words: list[str], place: Place) -> None:
    compose("measure", words)


def dashboard(words: list[str], place: Place) -> None:
    """Print the definition; without `--dry-run` a command needs an account, and is parsed."""
    run_module(words) if "--dry-run" in words else parse(words, place)


def train(words: list[str], place: Place) -> None:
    """Compose and check each job; train where the page goes on with the run."""
    if "--help" in words or "--cfg" in words:
        run_module(words)
        return
    compose("train", words)
    folders = [word.partition("=")[2] for word in words if word.startswith("hydra.run.dir=")]
    if any(f"{folder}/" in place.rest for folder in folders) and not place.of_an_experiment:
        small = [each for each in TINY if not OWN_DATA & set(words) or not each.startswith("data.")]
        printed = run_module(words, *small)
        missing = [label for label in re.findall(r"^│ (.*?) +│", place.rest, re.MULTILINE) if label not in printed]
        if missing:
            raise CommandError(f"the page shows {missing}, the command printed {printed}")


def torchrun(words: list[str], place: Place) -> None:
    """Let torchrun's parser read its options, and compose the rest."""
    from torch.distributed.run import get_args_parser

    options = get_args_parser().parse_args(words[1:])
    if not options.module or options.training_script != "lipcert.train":
        raise CommandError("torchrun does not start lipcert.train")
    compose("train", words)


def srun(words: list[str], place: Place) -> None:
    """Compose what SLURM's tasks run."""
    compose("train", words)


def script(words: list[str], place: Place) -> None:
    """Run a script that the page shows; compile one of an experiment, whose numbers come from runs of hours."""
    if (place.folder / words[1]).exists():
        in_a_process(lambda: runpy.run_path(words[1], run_name="__main__"), words[1])
        return
    folder = ROOT if (ROOT / words[1]).exists() else (ROOT / place.page).parent
    compile((folder / words[1]).read_text(), words[1], "exec")


def make(words: list[str], place: Place) -> None:
    """Let make tell what it would do."""
    done = subprocess.run(
        ["make", "--no-print-directory", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise CommandError(done.stderr)


def pip_install(words: list[str], place: Place) -> None:
    """An extra of lipcert, a dependency of one, or lipcert itself."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    known = {re.split(r"[<>=\[ ]", each)[0] for group in extras.values() for each in group}
    for word in words[2:]:
        extra = re.fullmatch(r"(?:lipcert|\.)\[([\w,-]+)\]", word)
        named = set(extra[1].split(",")) <= extras.keys() if extra else word in known | {"lipcert", ".", "-e"}
        if not named:
            raise CommandError(f"{word} is neither lipcert nor named in pyproject.toml")


def wandb(words: list[str], place: Place) -> None:
    """A command of wandb's."""
    from wandb.cli.cli import cli

    if words[1] not in cli.commands:
        raise CommandError(f"wandb has no command {words[1]}")


def shell(words: list[str], place: Place) -> None:
    """Run a tool of the system."""
    done = subprocess.run(words, cwd=place.folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CommandError(done.stderr)


def nothing(words: list[str], place: Place) -> None:
    """Nothing that could fail."""


RULES: tuple[tuple[str, Action], ...] = (
    (r"make \w+", make),
    (r"python -m lipcert\.\w+ .*--help", as_it_stands),
    (r"python -m lipcert\.train\b", train),
    (r"python -m lipcert\.certify\b", certify),
    (r"python -m lipcert\.check\b", check),
    (r"python -m lipcert\.soundness\b", soundness),
    (r"python -m lipcert\.audit\b", audit),
    (r"python -m lipcert\.export\b", export),
    (r"python -m lipcert\.benchmark\b", benchmark),
    (r"python -m lipcert\.dashboard\b", dashboard),
    (r"python -m lipcert\.report\b", report),
    (r"python -m lipcert\.measure\b", measure),
    (r"python -m lipcert\.zoo( verify \w\S* --count \d+)?$", as_it_stands),
    (r"python -m lipcert\.zoo\b", parse),
    (r"python -m experiments\.restore\b", as_it_stands),
    (r"python -m experiments\.(collect|pages|others\.certify)\b", parse),
    (r"torchrun .* -m lipcert\.train\b", torchrun),
    (r"srun .* python -m lipcert\.train\b", srun),
    (r"python [\w/]+\.py\b", script),
    (r"pip install\b", pip_install),
    (r"wandb \w+", wandb),
    (r"tensorboard --logdir\b", nothing),
    (r"export \w+=", nothing),
    (r"cd \w+", nothing),
    (r"ls \w+", shell),
)
"""What a command looks like, and what is done with it; the first that matches."""


def filled(word: str) -> str:
    """Return a word with an example in place of what the reader is to fill in."""
    for name, example in EXAMPLES.items():
        word = re.sub(rf"={name}$", f"={example}", word)
    return word


def execute(command: str, place: Place) -> None:
    """Execute a command by the first rule that matches.

    Raises:
        CommandError: for a command that no rule matches, or that does not work.
    """
    words = [filled(word) for word in shlex.split(command, comments=True)]
    while words and re.match(r"[A-Z_]+=", words[0]):  # variables of the environment
        words = words[1:]
    line = " ".join(words)
    for pattern, action in RULES:
        if re.match(pattern, line):
            action(words, place)
            return
    raise CommandError(f"no rule in {__name__} says how to execute it")
