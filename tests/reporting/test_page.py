"""The page: its numbers are those of the files, it needs no other file, its pictures are whole."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from lipcert.reporting.figures.measured import edges_with_zero, matrices
from lipcert.reporting.figures.picture import Picture, as_svg
from lipcert.reporting.reading import read_runs
from lipcert.reporting.report import build, named_pictures, render, write_report
from tests.reporting.examples import RESULTS, Page, write_measured, write_run

RUN_PICTURES = ("accuracies", "lipschitz", "varying")
MEASURED = (
    *("certified_curve", "radii", "margins"),
    *("confusion_clean", "confusion_attacked", "confusion_certified", "convergence"),
)


def _page(folder: Path) -> Page:
    return Page(render(build(read_runs([folder])), "python -m lipcert.report RUN"))


@pytest.fixture(scope="module", name="folder")
def fixture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two groups of one data set, one run of another; one is measured, one has certificates that are damaged."""
    folder = tmp_path_factory.mktemp("runs")
    write_measured(write_run(folder / "measured"))
    write_run(folder / "other_seed", seed=1, certified_accuracy=0.6543)
    write_run(folder / "tight", bound="tight", certified_accuracy=0.7777, clean_accuracy=0.8888)
    write_run(folder / "photos <b>", data="photos")
    (folder / "tight" / "checkpoints").mkdir()
    (folder / "tight" / "checkpoints" / "last.ckpt").write_bytes(b"")
    return folder


@pytest.fixture(scope="module", name="page")
def fixture_page(folder: Path) -> Page:
    return _page(folder)


def test_numbers_of_a_run_are_those_of_its_files(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    page = _page(run)
    written = json.loads((run / "results.json").read_text())
    assert page.tiles == {
        "clean_accuracy": f"{100 * written['clean_accuracy']:.1f} %",
        "pgd_accuracy": f"{100 * written['pgd_accuracy']:.1f} %",
        "certified_accuracy": f"{100 * written['certified_accuracy']:.1f} %",
        "global_lipschitz": f"{written['global_lipschitz']:.4g}",
        "local_lipschitz_mean": f"{written['local_lipschitz_mean']:.4g}",
        "failure_probability": f"{written['failure_probability']:.1e}",
    }
    shown = dict(page.tables["results.json"][1:])  # type: ignore[arg-type]
    assert shown.keys() == written.keys()
    for key, value in written.items():
        if isinstance(value, dict):
            assert {name: float(each) for name, each in (pair.split(": ") for pair in shown[key].split(", "))} == value
        else:
            assert type(value)(shown[key]) == value


def test_the_curve_is_that_of_the_measurement(page: Page, folder: Path) -> None:
    lines = (folder / "measured" / "measurements" / "last" / "curves.csv").read_text().splitlines()
    expected = [[float(cell) for cell in line.split(",")] for line in lines[1:]]
    _, *rows = page.tables["Certified accuracy against ε"]
    found = [[float(epsilon), *(float(cell) / 100 for cell in cells)] for epsilon, *cells in rows]
    assert found == expected


def test_means_over_seeds_are_on_the_page(page: Page) -> None:
    head, *rows = page.tables["Accuracies on digits"]
    assert [row[:2] for row in rows] == [["local", "0, 1"], ["tight", "0"]]
    certified = [row[head.index("certified %")] for row in rows]
    mean, half = 100 * (0.7043 + 0.6543) / 2, 100 * abs(0.7043 - 0.6543) / 2
    assert certified == [f"{mean:.1f} ± {half * 2**0.5:.1f}", "77.8"]
    assert [row[1] for row in page.tables["Accuracies on photos"][1:]] == ["91.4"]
    assert "The runs are of 2 data sets (digits, photos); each has tables of its own." in page.text


def test_the_page_needs_no_other_file(page: Page) -> None:
    assert page.loaded
    assert [each for each in page.loaded if not each.startswith(("#", "data:"))] == []
    assert "script" not in page.tags
    assert "http" not in page.text.replace("https", "http")


def test_ids_are_unique_and_references_lead_somewhere(page: Page) -> None:
    assert len(set(page.ids)) == len(page.ids)
    assert {each[1:] for each in page.loaded if each.startswith("#")} <= set(page.ids)


def test_names_are_text_not_markup(page: Page) -> None:
    assert "photos <b>" in page.text
    assert "b" not in page.tags


def test_every_picture_is_there_and_described(page: Page) -> None:
    runs = 4
    assert page.pictures.count("pareto_digits") == 1
    for key in RUN_PICTURES:
        assert page.pictures.count(key) == runs
    for key in MEASURED:
        assert page.pictures.count(key) == 1
    assert (
        page.tags.count("svg")
        == len(page.pictures)
        == len(
            [
                each
                for each in page.labels
                if "Line chart" in each or any(word in each for word in ("Histogram", "Matrix", "Scatter"))
            ]
        )
    )
    assert any("Last local bound: 3.25." in label for label in page.labels)


def test_what_lacks_measurements_says_how_to_make_them(page: Page, folder: Path) -> None:
    assert f"python -m lipcert.measure checkpoint={folder}/tight/checkpoints/last.ckpt" in page.text
    assert "Not measured, and the run's folder has no checkpoint to measure." in page.text


def test_the_command_says_where_the_data_lie(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a run", {"data": {"name": "digits", "root": "/my data"}})
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"")
    (command,) = [word for word in _page(folder).words if word.startswith("python -m lipcert.measure")]
    *_, checkpoint, root = shlex.split(command)
    parse = OverridesParser.create().parse_overrides
    given = {override.key_or_group: override.value() for override in parse([checkpoint, root])}
    assert given == {"checkpoint": f"{folder}/checkpoints/last.ckpt", "data_root": "/my data"}


def test_many_classes_have_no_matrix(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "measured", tmp_path / "run")
    path = tmp_path / "run" / "measurements" / "last" / "measurement.json"
    path.write_text(path.read_text().replace('"num_classes": 3', '"num_classes": 200'))
    page = _page(tmp_path / "run")
    assert "200 classes are too many for a matrix" in page.text
    assert not [key for key in page.pictures if key.startswith("confusion")]


def test_extreme_images(page: Page) -> None:
    assert len([each for each in page.loaded if each.startswith("data:image/png;base64,")]) == 2
    assert page.tags.count("img") == 2


def test_confusion_matrices(folder: Path) -> None:
    (measurement,) = (run.measurement for run in read_runs([folder / "measured"]))
    assert measurement is not None
    found = matrices(measurement)
    assert found["clean"].tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert found["attacked"].tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert found["certified"].tolist() == [[1, 0, 0, 1], [0, 0, 0, 1], [0, 0, 1, 0]]


def test_what_is_missing_is_listed(tmp_path: Path) -> None:
    write_run(tmp_path / "good")
    unfinished = write_run(tmp_path / "unfinished", seed=1)
    (unfinished / "results.json").write_text('{"clean_accuracy": 0.')
    page = Page(render(build(read_runs([tmp_path / "good", unfinished, tmp_path / "absent"])), ""))
    assert "1 complete, 1 unfinished, 1 no run" in page.text
    assert "results.json is damaged" in page.text
    assert f"{tmp_path}/absent is no run: there is no such folder." in page.text
    assert "0 (1 missing)" in page.text
    assert page.tiles["clean_accuracy"] == f"{100 * RESULTS['clean_accuracy']:.1f} %"


def test_pngs_in_both_themes(tmp_path: Path, folder: Path) -> None:
    write_report([folder / "tight"], tmp_path / "report")
    names = {str(path.relative_to(tmp_path / "report")) for path in (tmp_path / "report").rglob("*") if path.is_file()}
    pictures = [f"figures/tight/{key}" for key in RUN_PICTURES]
    assert names == {"report.html", *(f"{name}.png" for name in pictures), *(f"{name}-dark.png" for name in pictures)}
    assert all((tmp_path / "report" / name).read_bytes()[:4] == b"\x89PNG" for name in names if name.endswith("png"))


def test_no_picture_replaces_another(tmp_path: Path) -> None:
    for name in ("x y", "x_y", "pareto"):
        write_run(tmp_path / name, method=name)
    paths = [path for path, _ in named_pictures(build(read_runs([tmp_path])))]
    assert len(set(paths)) == len(paths) == 3 + 3 * len(RUN_PICTURES)


def test_colours_are_the_pages(folder: Path) -> None:
    report = build(read_runs([folder / "measured"]))
    for picture in report.runs[0].pictures:
        assert isinstance(picture, Picture)
        text = as_svg(picture)
        colours = set(re.findall(r"(?:fill|stroke): *([^;\"]+)", text))
        assert {each for each in colours if each.startswith("#")} <= set()
        assert any(each.startswith("var(--") for each in colours)
        assert "DejaVu" not in text


@pytest.mark.parametrize("ends", [(-2.0, 3.0), (10.0, 11.0), (-11.0, -10.5), (0.0, 0.0), (-1e-3, 5.0)])
def test_edges_of_margins_hold_all_and_part_at_zero(ends: tuple[float, float]) -> None:
    edges = edges_with_zero(*ends)
    assert edges[0] <= min(ends)
    assert edges[-1] >= max(ends)
    assert 0 in edges
