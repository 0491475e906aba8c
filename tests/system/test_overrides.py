"""Folder names of sweeps and jobs: the same for the same job, different for different ones, safe everywhere."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipcert.system.overrides import job_folder, split_override, sweep_folder

KEYS = st.sampled_from(["seed", "method", "sparsity.weight", "experiment", "+callbacks2.x", "model"])
OVERRIDES = st.lists(st.builds("{}={}".format, KEYS, st.text(max_size=200)), max_size=6)


def test_named_by_overrides() -> None:
    assert job_folder(["seed=2", "experiment=mnist_4c3f"]) == "experiment=mnist_4c3f,seed=2"
    assert job_folder([]) == "job"


@pytest.mark.parametrize(
    "override",
    [
        *("sweep=table4", "scale=smoke", "data.root=/some/where", "resume=auto", "trainer.devices=4", "logger=wandb"),
        *("callbacks=quiet", "+callbacks.mine._target_=my.Callback", "~logger.csv"),
    ],
)
def test_where_a_job_runs_does_not_name_it(override: str) -> None:
    assert job_folder([override, "seed=2"]) == "seed=2"


@given(OVERRIDES)
def test_safe_and_bounded(overrides: list[str]) -> None:
    name = job_folder(overrides)
    assert re.fullmatch(r"[A-Za-z0-9+][A-Za-z0-9._=,+-]*", name)
    assert len(name.encode()) <= 120


@given(OVERRIDES, st.randoms())
def test_order_does_not_matter(overrides: list[str], random: object) -> None:
    shuffled = list(overrides)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert job_folder(shuffled) == job_folder(overrides)


@given(OVERRIDES, OVERRIDES)
def test_different_jobs_have_different_names(first: list[str], second: list[str]) -> None:
    assert (job_folder(first) == job_folder(second)) == (",".join(sorted(first)) == ",".join(sorted(second)))


def test_long_names_stay_apart() -> None:
    assert job_folder(["model=" + "a" * 300]) != job_folder(["model=" + "a" * 301])
    assert job_folder(["model=a/b"]) != job_folder(["model=a:b"])


def test_folders_of_sweeps() -> None:
    assert sweep_folder("table4", "full", "now") == "table4"
    assert sweep_folder("table4", "smoke", "now") == "table4-smoke"
    assert sweep_folder(None, "smoke", "now") == "now"


def test_parts_of_an_override() -> None:
    assert split_override("+data.root=/a=b") == ("data.root", "/a=b")
    assert split_override("~callbacks") == ("callbacks", "")
