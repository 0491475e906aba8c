"""The benchmark measures what it says, and writes it where it says. (Its figures are not asserted.)"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from lipcert.commands.benchmark import main
from lipcert.nn import build


def test_rows_of_the_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "benchmark.json"
    arguments = ["models=[small]", "activations=[clipped_relu,clipped_maxmin]", "batch_size=4", "rounds=1"]
    arguments.append(f"threads={torch.get_num_threads()}")
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments, "image_shape=[1,8,8]", f"output={output}"])
    main()
    content = json.loads(output.read_text())
    rows = content["rows"]
    assert [row["bound"] for row in rows] == ["plain", "global", "local", "tight"] * 2
    for row in rows:
        assert set(row) == {
            *("model", "activation", "bound", "iterations", "batch_size", "device", "seconds", "ratio_to_plain"),
            "peak_memory_mb",
        }
        assert row["seconds"] > 0
        assert row["peak_memory_mb"] is None or row["peak_memory_mb"] >= 0
        plain = next(r for r in rows if r["bound"] == "plain" and r["activation"] == row["activation"])
        assert row["ratio_to_plain"] == pytest.approx(row["seconds"] / plain["seconds"])


def test_a_trained_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(
        {
            "state_dict": {f"model.{k}": v for k, v in build("small", (1, 8, 8), 10, "maxmin").state_dict().items()},
            "lipcert": {"data": "digits", "model": "small", "activation": "maxmin"},
        },
        tmp_path / "last.ckpt",
    )
    output = tmp_path / "benchmark.json"
    arguments = [f"checkpoint={tmp_path / 'last.ckpt'}", "batch_size=4", "rounds=1", f"output={output}"]
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments, f"threads={torch.get_num_threads()}"])
    main()
    rows = json.loads(output.read_text())["rows"]
    assert [(row["model"], row["activation"]) for row in rows] == [("small", "maxmin")] * 4


def test_bad_settings_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", "rounds=0"])
    with pytest.raises(SystemExit) as exit_info:
        main()
    assert exit_info.value.code == 1
    assert "`rounds`" in capsys.readouterr().err
