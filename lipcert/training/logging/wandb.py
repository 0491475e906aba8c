"""Logs a run to Weights & Biases: one row an epoch, its results at the end, all files inside the run's directory."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from lipcert.system.files import write_text
from lipcert.training.resume.starting_point import AUTO

logger = logging.getLogger(__name__)

ID_FILE = "wandb_id.txt"
"""Holds the id of a run, in the run's directory, so that a resumed run goes on under it."""

FOLDERS = ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR")
"""Environment variables of the folders that wandb otherwise makes in the user's home."""

MODE = "WANDB_MODE"
"""Environment variable that alone keeps wandb's usage reports offline too; `wandb.init(mode=...)` does not."""

TABLE = "results"
"""Key of the table."""

COLUMNS = ("run", "quantity", "of", "value")

QUANTITIES = {
    "clean_accuracy": "clean accuracy",
    "pgd_accuracy": "accuracy under PGD",
    "autoattack_accuracy": "accuracy under PGD and AutoAttack",
    "global_lipschitz": "global Lipschitz bound",
    "local_lipschitz_mean": "mean local Lipschitz bound",
}
PARTS = {
    "certified_accuracy_by_bound": "certified accuracy",
    "varying_fraction": "varying fraction",
}


@dataclass(frozen=True)
class Identity:
    """What a run is called where many are compared.

    Attributes:
        name: of data, model, method, bound and seed.
        group: of the sweep, None for a single run.
        tags: what runs are filtered by.
        id: of the run that is resumed, None for a new one.
    """

    name: str
    group: str | None
    tags: tuple[str, ...]
    id: str | None


class RunLogger(WandbLogger):
    """Lightning's logger, with epochs as x axis and an id that outlives interruptions; only rank 0 logs.

    Args:
        save_dir: the run's directory.
        offline: keep everything on disk; False sends it to the account that is logged in.
        project: of W&B.
        entity: user or team, None for the account's default.
        name, group, tags, id: where given, instead of those of the `Identity`; tags are added.

    Raises:
        ImportError: where wandb is missing or broken.
    """

    def __init__(
        self,
        save_dir: str,
        offline: bool = True,
        project: str = "lipcert",
        entity: str | None = None,
        name: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        id: str | None = None,
    ) -> None:
        _import_wandb()
        super().__init__(name, save_dir, id=id, offline=offline, project=project, entity=entity, group=group, tags=tags)
        del self._wandb_init["anonymous"]  # wandb warns of it

    def describe(self, identity: Identity, configuration: dict[str, Any]) -> None:
        """Set what the run is called and made of, before it starts."""
        chosen = self._wandb_init
        chosen["tags"] = list(dict.fromkeys((*identity.tags, *chosen["tags"])))
        for key in ("name", "group", "id"):
            chosen[key] = chosen[key] or getattr(identity, key)
        self._name, self._id = chosen["name"], chosen["id"]
        chosen["config"] = configuration

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Return the run of wandb; the first call starts it."""
        if self._experiment is None:
            self._experiment = self._start()
        return self._experiment

    def _start(self) -> Any:
        wandb = _import_wandb()
        folder = Path(str(self._save_dir))
        for variable in FOLDERS:
            os.environ.setdefault(variable, str(folder / "wandb" / "local"))
        if self._offline:
            os.environ[MODE] = "offline"
        try:
            run = wandb.init(**self._wandb_init, reinit="finish_previous")
        except (wandb.Error, OSError) as error:
            raise ConnectionError(
                f"Weights & Biases did not start ({error}). Log in with `wandb login`, or keep the run on this machine "
                "with logger.wandb.offline=true, or without wandb by logger=csv."
            ) from error
        write_text(folder / ID_FILE, f"{run.id}\n")
        run.define_metric("epoch")
        run.define_metric("*", step_metric="epoch", step_sync=True)
        return run

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log a part of an epoch's row; the training loss, which comes last, completes it.

        Steps are the trainer's, so that a resumed run's rows follow those from before.
        """
        self.experiment.log(dict(metrics), step=step, commit="train/loss" in metrics)


def _import_wandb() -> Any:
    """Import wandb, which nothing else does: it costs seconds."""
    try:
        import wandb
    except Exception as error:  # a broken installation raises anything
        raise ImportError(
            f"logger=wandb needs the package wandb, which cannot be imported ({error}); "
            "install it anew with `pip install --force-reinstall wandb`, or use logger=csv."
        ) from error
    return wandb


def earlier_id(folder: Path, resume: str | None) -> str | None:
    """Return the id of the run that a checkpoint is from, or of an attempt in the same folder that was cut short."""
    folders = [] if resume in (None, AUTO) else [Path(resume).resolve().parent.parent]
    for each in (*folders, folder):
        if (each / ID_FILE).is_file():
            return (each / ID_FILE).read_text(encoding="utf-8").strip() or None
    return None


def results_rows(run: str, results: dict[str, Any]) -> list[tuple[str, str, str, float]]:
    """Return the rows of the table: whole figures, certified accuracy by bound, varying fraction by layer."""
    whole = [(run, label, "", results[key]) for key, label in QUANTITIES.items() if results.get(key) is not None]
    parts = [(run, label, part, value) for key, label in PARTS.items() for part, value in results.get(key, {}).items()]
    return whole + parts


def report_results(loggers: Iterable[Logger], results: dict[str, Any]) -> None:
    """Put the results of a finished run where it was logged to W&B."""
    for each in loggers:
        if isinstance(each, RunLogger):
            import wandb

            run = each.experiment
            run.summary.update(results)
            rows = [list(row) for row in results_rows(run.name, results)]
            run.log({TABLE: wandb.Table(columns=list(COLUMNS), data=rows)})


@contextmanager
def finished() -> Iterator[None]:
    """Finish the run of wandb that was started inside, if there is one: as failed where an error passes through."""
    before = {variable: os.environ.get(variable) for variable in (*FOLDERS, MODE)}
    try:
        yield
    except BaseException as error:
        _finish(_exit_code(error))
        raise
    else:
        _finish(0)
    finally:
        for variable, value in before.items():
            os.environ.pop(variable, None)
            if value is not None:
                os.environ[variable] = value


def _exit_code(error: BaseException) -> int:
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return error.code
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def _finish(exit_code: int) -> None:
    wandb: Any = sys.modules.get("wandb")
    if getattr(wandb, "run", None) is None:
        return
    try:
        wandb.run.finish(exit_code=exit_code)
        wandb.teardown()  # its service process: the next run of a sweep has folders of its own
    except Exception as error:  # the results are on disk already, and another error must not be hidden
        logger.warning("Weights & Biases did not finish the run (%s); send it later with `wandb sync`.", error)
