"""`python -m lipcert.dashboard`: what it defines, what it sends, what it says where it cannot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.running import REPOSITORY, python

DASHBOARD = ("-m", "lipcert.dashboard")
UNREACHABLE = {"WANDB_BASE_URL": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}


class Server(ThreadingHTTPServer):
    """Stands in for W&B: knows one account and takes every view."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.views: list[dict[str, Any]] = []


class Answers(BaseHTTPRequestHandler):
    """Answers GraphQL queries; anything else, telemetry, is not found."""

    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != "/graphql":
            self.send_error(404)
            return
        asked = json.loads(body)
        data: dict[str, Any] = {"viewer": {"id": "1", "entity": "somebody", "flags": "{}", "teams": {"edges": []}}}
        if "upsertView" in asked["query"]:
            self.server.views.append(asked["variables"])
            data = {"upsertView": {"view": {"id": "view", "name": asked["variables"]["name"]}, "inserted": True}}
        answer = json.dumps({"data": data}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Keep quiet."""


@pytest.fixture(name="server")
def fixture_server() -> Iterator[Server]:
    with Server() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def _panels(spec: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the configurations of the panels of each section."""
    sections = spec["section"]["panelBankConfig"]["sections"]
    return {section["name"]: [panel["config"] for panel in section["panels"]] for section in sections}


def _without_ids(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_ids(each) for key, each in value.items() if key not in ("__id__", "id")}
    return [_without_ids(each) for each in value] if isinstance(value, list) else value


@pytest.fixture(scope="module", name="view")
def fixture_view(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `--dry-run` shows, where no network can be reached."""
    home = tmp_path_factory.mktemp("home")
    done = python(*DASHBOARD, "--dry-run", "--project", "mine", cwd=home, HOME=str(home), **UNREACHABLE)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_definition_needs_no_network(view: dict[str, Any]) -> None:
    assert (view["project"], view["displayName"]) == ("mine", "lipcert")
    panels = _panels(view["spec"])
    assert list(panels) == ["Accuracies", "Lipschitz bounds", "Varying proportion", "Schedules", "Results"]
    assert [(each["metrics"], each["xAxis"]) for each in panels["Accuracies"]] == [
        (["val/certified_accuracy"], "epoch"),
        (["val/clean_accuracy"], "epoch"),
        (["train/loss"], "epoch"),
    ]
    both, layers = panels["Lipschitz bounds"]
    assert (both["metrics"], both["yLogScale"]) == (["lipschitz/global", "lipschitz/local"], True)
    assert (layers["metricRegex"], layers["useMetricRegex"]) == (r"^lipschitz/[0-9].*", True)
    assert panels["Varying proportion"][0]["metricRegex"] == r"^varying/.+"
    schedules = [each["metrics"] for each in panels["Schedules"]]
    assert schedules == [["schedule/epsilon"], ["schedule/lambda"], ["schedule/learning_rate"]]
    bars, table = panels["Results"]
    assert bars["metrics"] == ["certified_accuracy", "pgd_accuracy", "clean_accuracy"]
    assert table["panel2Config"]["exp"]["fromOp"]["inputs"]["key"]["val"] == "results"
    settings = view["spec"]["section"]["settings"]
    assert settings["xAxis"] == "epoch"


def test_every_panel_of_the_list_is_defined(view: dict[str, Any]) -> None:
    from wandb_workspaces.reports.v2.interface import LinePlot

    from lipcert.dashboard.panels import SECTIONS

    panels = _panels(view["spec"])
    assert {name: len(each) for name, each in panels.items()} == {name: len(each) for name, each in SECTIONS.items()}
    titles = {panel.get("chartTitle") for each in panels.values() for panel in each}
    assert {each.title for section in SECTIONS.values() for each in section if isinstance(each, LinePlot)} <= titles


def test_one_command_creates_it(server: Server, view: dict[str, Any], tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{server.server_address[1]}"
    account = {"WANDB_BASE_URL": address, "WANDB_API_KEY": "0" * 40, "HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"}
    done = python(*DASHBOARD, "--project", "mine", "--name", "seen", cwd=tmp_path, **account)
    assert done.returncode == 0, done.stderr
    (sent,) = server.views
    assert (sent["entityName"], sent["projectName"], sent["displayName"]) == ("somebody", "mine", "seen")
    assert f"The dashboard is at {address}/somebody/mine?nw=" in done.stdout
    assert _without_ids(json.loads(sent["spec"])) == _without_ids(view["spec"])


def test_without_an_account(tmp_path: Path) -> None:
    done = python(*DASHBOARD, cwd=tmp_path, stdin="", HOME=str(tmp_path))
    assert done.returncode == 1
    sentence = done.stderr.splitlines()[-1]
    assert sentence.startswith("error: Weights & Biases did not take the dashboard (")
    assert "wandb login" in sentence
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [(), ("--dry-run",)])
def test_without_the_library(tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "broken").mkdir()
    missing = "raise ModuleNotFoundError('No module named wandb_workspaces')\n"
    (tmp_path / "broken" / "wandb_workspaces.py").write_text(missing)
    path = f"{tmp_path / 'broken'}:{REPOSITORY}"
    done = python(*DASHBOARD, *words, cwd=tmp_path, stdin="", HOME=str(tmp_path), PYTHONPATH=path)
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("error: The dashboard needs the package wandb-workspaces")
    assert "pip install" in sentence


def test_unknown_arguments(tmp_path: Path) -> None:
    done = python(*DASHBOARD, "--colour", cwd=tmp_path)
    assert done.returncode == 2
    assert "--colour" in done.stderr
