"""Logs a run to Weights & Biases: one row an epoch, its results at the end, all files inside the run's directory."""

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning_fabric.loggers.logger import rank_zero_experiment
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import WandbLogger
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

SILENT = "WANDB_SILENT"
"""Environment variable that sends wandb's own lines to its log file alone."""

LONGEST_GROUP = 128
"""Most characters that W&B keeps of a group."""

QUANTITIES = {
    "clean_accuracy": "clean accuracy",
    "pgd_accuracy": "accuracy under PGD",
    "autoattack_accuracy": "accuracy under PGD and AutoAttack",
    "global_lipschitz": "global Lipschitz bound",
    "local_lipschitz_mean": "mean local Lipschitz bound",
    "certified_accuracy_by_bound": "certified accuracy",
    "varying_fraction": "varying fraction",
}
"""Of the table `results`: whole figures, then those by bound and by layer."""


class RunLogger(WandbLogger):
    """Lightning's logger, with epochs as x axis and an id that outlives interruptions; only rank 0 logs.

    Args:
        save_dir: the run's directory.
        offline: keep everything on disk; False sends it to the account that is logged in.
        settings: of `wandb.init`; a name, group or id that is given stands instead of what `describe` finds, tags
            stand beside it.

    Raises:
        ImportError: where wandb is missing or broken.
    """

    def __init__(self, save_dir: str, offline: bool = True, **settings: Any) -> None:
        try:
            import wandb  # noqa: F401  # only where it is used: it costs seconds
        except Exception as error:  # a broken installation raises anything
            raise ImportError(
                f"logger=wandb needs the package wandb, which cannot be imported ({error}); "
                "install it anew with `pip install --force-reinstall wandb`, or use logger=csv."
            ) from error
        super().__init__(save_dir=save_dir, offline=offline, **settings)
        del self._wandb_init["anonymous"]  # wandb warns of it

    def describe(self, config: DictConfig) -> None:
        """Set what the run of the current Hydra job is called and made of, before it starts."""
        hydra, chosen = HydraConfig.get(), self._wandb_init
        parts = (config.data.name, config.model.name, instantiate(config.method).name, config.bound.name)
        sparsity = f"_sparsity{config.sparsity.weight:g}" if config.sparsity.weight else ""
        found = {
            "name": "_".join(parts) + f"{sparsity}_seed{config.seed}",
            "group": hydra.sweep.dir[-LONGEST_GROUP:] if hydra.mode is RunMode.MULTIRUN else None,
            "id": earlier_id(Path(hydra.runtime.output_dir), config.resume),
        }
        chosen |= {key: chosen.get(key) or value for key, value in found.items()}
        tags = dict.fromkeys((*parts[:2], config.model.activation or "own", *parts[2:], *chosen["tags"]))
        chosen |= {"tags": list(tags), "config": OmegaConf.to_container(config, resolve=True)}
        self._name, self._id = chosen["name"], chosen["id"]

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Return the run of wandb; the first call starts it."""
        import wandb

        if self._experiment is not None:
            return self._experiment
        folder = Path(str(self._save_dir))
        for variable in FOLDERS:
            os.environ.setdefault(variable, str(folder / "wandb" / "local"))
        os.environ.setdefault(SILENT, "true")
        if self._offline:
            os.environ[MODE] = "offline"
        try:
            self._experiment = wandb.init(**self._wandb_init, reinit="finish_previous")
        except (wandb.Error, OSError) as error:
            raise ConnectionError(
                f"Weights & Biases did not start ({error}). Log in with `wandb login`, or keep the run on this machine "
                "with logger.wandb.offline=true, or without wandb by logger=csv."
            ) from error
        write_text(folder / ID_FILE, f"{self._experiment.id}\n")
        self._experiment.define_metric("epoch")
        self._experiment.define_metric("*", step_metric="epoch", step_sync=True)
        return self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log a part of an epoch's row; the training loss, which comes last, completes it.

        Steps are the trainer's, so that a resumed run's rows follow those from before.
        """
        self.experiment.log(dict(metrics), step=step, commit="train/loss" in metrics)

    def report(self, results: dict[str, Any]) -> None:
        """Put the results of a finished run into its summary and its table."""
        import wandb

        run = self.experiment
        run.summary.update(results)
        table = wandb.Table(columns=["run", "quantity", "of", "value"])
        for key, label in QUANTITIES.items():
            parts = results[key] if isinstance(results[key], dict) else {"": results[key]}
            for part, value in parts.items():
                if value is not None:
                    table.add_data(run.name, label, part, value)
        run.log({"results": table})


def earlier_id(folder: Path, resume: str | None) -> str | None:
    """Return the id of the run that a checkpoint is from, or of an attempt in the same folder that was cut short."""
    path = None if resume in (None, AUTO) else Path(resume).expanduser().resolve()
    folders = [] if path is None else [path if path.is_dir() else path.parent.parent]
    for each in (*folders, folder):
        if (each / ID_FILE).is_file():
            return (each / ID_FILE).read_text(encoding="utf-8").strip() or None
    return None


@contextmanager
def finished() -> Iterator[None]:
    """Finish the run of wandb that was started inside, if there is one: as failed where an error passes through."""
    before = {variable: os.environ.get(variable) for variable in (*FOLDERS, MODE, SILENT)}
    exit_code: Any = 0
    try:
        yield
    except BaseException as error:
        exit_code = error.code if isinstance(error, SystemExit) else 1
        raise
    finally:
        wandb: Any = sys.modules.get("wandb")
        try:
            if getattr(wandb, "run", None) is not None:
                wandb.run.finish(exit_code=exit_code)
                wandb.teardown()  # its service process: the next run of a sweep has folders of its own
        except Exception as error:  # the results are on disk already, and another error must not be hidden
            logger.warning("Weights & Biases did not finish the run (%s); send it later with `wandb sync`.", error)
        for variable, value in before.items():
            os.environ.pop(variable, None)
            if value is not None:
                os.environ[variable] = value
