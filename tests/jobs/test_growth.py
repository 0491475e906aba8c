"""How costs grow: the fit of a power law, and the rows that it is made of. (No timing is asserted.)"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from experiments.pages import written
from lipcert.commands.benchmark import main
from lipcert.jobs import benchmark
from lipcert.jobs.benchmark import fits_of, growth_exponent, random_work


@pytest.mark.parametrize("power", [0.0, 1.0, 2.5, -0.5])
def test_a_power_law_is_found(power: float) -> None:
    sizes = [1.0, 3.0, 10.0, 70.0]
    assert growth_exponent(sizes, [0.2 * size**power for size in sizes]) == pytest.approx(power)


def test_disturbances_that_cancel_change_nothing() -> None:
    assert growth_exponent([1, 10, 100], [2 * 1, 0.25 * 10, 2 * 100]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("sizes", "costs"), [([2, 2], [1, 3]), ([1], [1]), ([1, 2], [0, 1]), ([-1, 2], [1, 1]), ([1, 2, 3], [1, 2])]
)
def test_what_has_no_exponent_is_refused(sizes: list[float], costs: list[float]) -> None:
    with pytest.raises(ValueError, match=r"math domain|x is constant|at least two|same number"):
        growth_exponent(sizes, costs)


def test_each_kind_and_bound_is_fitted_alone() -> None:
    rows = [
        {"growth": kind, "bound": bound, "size": size, "seconds": size**power}
        for kind, bound, power in (("classes", "plain", 0), ("classes", "local", 1), ("width", "local", 2))
        for size in (1, 4)
    ]
    found = {(fit["growth"], fit["bound"]): fit["exponent"] for fit in fits_of(rows)}
    assert found == pytest.approx({("classes", "plain"): 0, ("classes", "local"): 1, ("width", "local"): 2})


def test_the_command_writes_a_row_for_each_size_and_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"classes": (3, 6), "data_size": (9, 20)}
    monkeypatch.setattr(benchmark, "SIZES", sizes)
    output = tmp_path / "benchmark.json"
    arguments = ["models=[small]", "bounds=[local]", "batch_size=4", "rounds=1", "image_shape=[1,8,8]"]
    arguments += [f"threads={torch.get_num_threads()}", f"output={output}", f"growth=[{','.join(sizes)}]"]
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments])
    main()
    content = json.loads(output.read_text())
    bounds = {kind: ["start_up"] * (kind == "data_size") + ["plain", "local"] for kind in sizes}
    expected = [(kind, size, bound) for kind in sizes for size in sizes[kind] for bound in bounds[kind]]
    assert [(row["growth"], row["size"], row["bound"]) for row in content["rows"]] == expected
    assert all(row["seconds"] > 0 and row["batch_size"] == 4 and row["model"] == "small" for row in content["rows"])
    assert len(content["exponents"]) == 5


@pytest.mark.parametrize(
    ("kind", "size", "images", "logits", "channels"),
    [
        ("classes", 7, (4, 1, 8, 8), 7, 16),
        ("width", 0.5, (4, 1, 8, 8), 3, 8),
        ("image_size", 12, (4, 1, 12, 12), 3, 16),
        ("data_size", 40, (40, 1, 8, 8), 3, 16),
    ],
)
def test_each_kind_changes_one_thing(
    kind: str, size: float, images: tuple[int, ...], logits: int, channels: int
) -> None:
    config: Any = SimpleNamespace(image_shape=[1, 8, 8], num_classes=3, batch_size=4)
    work = random_work(config, "small", "clipped_relu", kind, size)
    assert work.split.images.shape == images
    assert work.model(work.split[:2][0]).shape == (2, logits)
    assert next(work.model.parameters()).shape[0] == channels


@pytest.mark.parametrize(
    ("arguments", "words"), [(["growth=[height]"], "height"), (["growth=[width]", "checkpoint=a.ckpt"], "checkpoint")]
)
def test_bad_settings_are_refused(
    arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", f"threads={torch.get_num_threads()}", *arguments])
    with pytest.raises(SystemExit):
        main()
    assert words in capsys.readouterr().err


def test_the_table_of_the_page(tmp_path: Path) -> None:
    """Everything between the markers is made from the file, everything around them stays."""
    rows = [
        {"growth": "data_size", "bound": "start_up", "size": size, "seconds": seconds, "peak_memory_mb": memory}
        for size, seconds, memory in ((10, 0.5, 3.2), (100, 0.25, None))
    ]
    (tmp_path / "growth.json").write_text(json.dumps({"rows": rows, "exponents": fits_of(rows)}))
    page = "before\n<!-- table: growth growth.json -->\nold\n<!-- end of table -->\nafter\n"
    text = written(page, [], tmp_path)
    assert "| data size | 10, 100 | start up | 0.5000, 0.2500 | 3, - | -0.30 |" in text
    assert text.startswith("before\n<!-- table: growth growth.json -->\n")
    assert text.endswith("<!-- end of table -->\nafter\n")
    assert "old" not in text
