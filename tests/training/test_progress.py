"""The line of a run on a terminal: live figures at 80 columns, going on where a resumed run does, nothing in files."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from rich.console import Console

from lipcert.training.logging.progress import BAR, KEYS, TrainingProgress, figures
from tests.training.fits import BATCHES, EPOCHS, StopAfter, classifier, digits, trainer

COLUMNS = 80


class Seen(pl.Callback):
    """Notes the line after every batch; stands behind the progress bar."""

    def __init__(self, bar: TrainingProgress) -> None:
        self.bar = bar
        self.lines: list[str] = []
        self.epsilons: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        assert self.bar._progress is not None
        page = _console(terminal=False)
        page.print(self.bar._progress.get_renderable())
        self.lines.append(_text(page).rstrip())
        self.epsilons.append(pl_module.current_epsilon)


def _console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=COLUMNS, color_system=None)


def _text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture(scope="module", name="fitted")
def fixture_fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Seen, Seen, dict[str, float]]:
    """What is seen of two epochs, and of the other two from their checkpoint; the last validation's accuracies."""
    folder = tmp_path_factory.mktemp("progress")
    seen, accuracies = [], {}
    for name, stops, earlier in (("first", [StopAfter(1)], None), ("second", [], folder / "first" / "last.ckpt")):
        console = _console(terminal=True)
        bar = TrainingProgress(console)
        seen.append(Seen(bar))
        run = trainer(folder / name, *stops, bar, seen[-1])
        run.fit(classifier(), digits(), ckpt_path=earlier, weights_only=True)
        assert bar._progress is None
        label, epsilon = " ".join(seen[-1].lines[-1].split()[:2]), f"epsilon {seen[-1].epsilons[-1]:.3f}"
        assert re.search(rf"{label} .*{epsilon}", _text(console))
        accuracies = {key: value.item() for key, value in run.callback_metrics.items() if key.startswith("val/")}
    return seen[0], seen[1], accuracies


def test_one_line_that_fits(fitted: tuple[Seen, Seen, dict[str, float]]) -> None:
    for seen in fitted[:2]:
        assert len(seen.lines) == EPOCHS * BATCHES // 2
        assert all("\n" not in line and len(line) <= COLUMNS for line in seen.lines)


def test_figures_are_live(fitted: tuple[Seen, Seen, dict[str, float]]) -> None:
    first, second, accuracies = fitted
    for seen in (first, second):
        for line, epsilon in zip(seen.lines, seen.epsilons, strict=True):
            assert f"epsilon {epsilon:.3f}" in line
    assert len(set(first.epsilons)) > 4
    assert all(line.endswith("clean - certified -") for line in first.lines[:BATCHES])
    assert all(re.search(r"clean [\d.]+% certified [\d.]+%$", line) for line in first.lines[BATCHES:])
    assert second.bar._accuracies == {name: accuracies[key] for name, key in KEYS.items()}


def test_epochs_and_share_of_the_whole_run(fitted: tuple[Seen, Seen, dict[str, float]]) -> None:
    lines = [*fitted[0].lines, *fitted[1].lines]
    found = [re.match(r"epoch (\d)/(\d) \S+ +(\d+)%", line) for line in lines]
    batches = range(1, EPOCHS * BATCHES + 1)
    expected = [(1 + (batch - 1) // BATCHES, EPOCHS, 100 * batch // (EPOCHS * BATCHES)) for batch in batches]
    shown = [tuple(map(int, each.groups())) for each in found if each]
    assert [each[:2] for each in shown] == [each[:2] for each in expected]
    assert [each[2] for each in shown] == pytest.approx([each[2] for each in expected], abs=1)


def test_nothing_is_written_into_files(tmp_path: Path) -> None:
    console = _console(terminal=False)
    run = trainer(tmp_path, TrainingProgress(console), StopAfter(0))
    run.fit(classifier(), digits(limit_train=50))
    assert _text(console) == ""


def test_a_log_has_a_summary_and_a_line_an_epoch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, stops, earlier in (("first", [StopAfter(0)], None), ("second", [], tmp_path / "first" / "last.ckpt")):
        caplog.clear()
        with caplog.at_level("INFO", "lipcert"):
            run = trainer(tmp_path / name, *stops, TrainingProgress(_console(terminal=False)))
            run.fit(classifier(), digits(limit_train=50), ckpt_path=earlier, weights_only=True)
        summary, *lines = [each.getMessage() for each in caplog.records if each.name.startswith("lipcert")]
        assert "1 x cpu, images 50 + " in summary
        assert f"of 1x8x8, 10 classes, {sum(each.numel() for each in classifier().parameters())} parameters" in summary
        assert summary.endswith(f", {EPOCHS} epochs" + ", resumed at epoch 2" * (name == "second"))
        numbers = [re.match(rf"epoch (\d)/{EPOCHS}: loss [\d.]+ epsilon .* certified .* left$", line) for line in lines]
        expected = [1] if name == "first" else list(range(2, EPOCHS + 1))
        assert [each and int(each[1]) for each in numbers] == expected


def test_the_longest_line_fits() -> None:
    """Of 999 epochs, with hours to go; a space between two columns."""
    line = f"epoch 999/999 {'-' * BAR} 100% 9:59:59 {figures(1.58, dict.fromkeys(KEYS, 1.0))}"
    assert line.endswith("epsilon 1.580 clean 100.0% certified 100.0%")
    assert len(line) <= COLUMNS
