"""What the dashboard shows: sections of panels over the keys that runs log."""

from typing import Any

from wandb_workspaces import workspaces
from wandb_workspaces.reports.v2.interface import BarPlot, Layout, LinePlot, WeavePanelSummaryTable

X_AXIS = "epoch"
"""Key of the x axis of every curve."""

FRACTION = (0, 1)
"""Range of an axis of accuracies and proportions."""


def curves(title: str, *keys: str, pattern: str | None = None, **axis: Any) -> LinePlot:
    """Return a panel of curves over epochs, a line for each run and key, or for each key that `pattern` matches."""
    return LinePlot(title=title, x=X_AXIS, y=list(keys), metric_regex=pattern, smoothing_type="none", **axis)


SECTIONS: dict[str, list[Any]] = {
    "Accuracies": [
        curves("Certified accuracy on held-out images", "val/certified_accuracy", range_y=FRACTION),
        curves("Clean accuracy on held-out images", "val/clean_accuracy", range_y=FRACTION),
        curves("Training loss", "train/loss"),
    ],
    "Lipschitz bounds": [
        curves("Global and local", "lipschitz/global", "lipschitz/local", log_y=True),
        curves("Local, by layer", pattern=r"^lipschitz/[0-9].*", log_y=True),
    ],
    "Varying proportion": [curves("Varying neurons, by layer", pattern=r"^varying/.+", range_y=FRACTION)],
    "Schedules": [
        curves("Epsilon", "schedule/epsilon"),
        curves("Lambda", "schedule/lambda", range_y=FRACTION),
        curves("Learning rate", "schedule/learning_rate", log_y=True),
    ],
    "Results": [
        BarPlot(
            title="Test images: certified, under PGD, clean",
            metrics=["certified_accuracy", "pgd_accuracy", "clean_accuracy"],
            range_x=FRACTION,
        ),
        WeavePanelSummaryTable(table_name="results", layout=Layout(w=24, h=12)),
    ],
}
"""Panels by section; the last one joins the tables that runs leave."""


def workspace(entity: str, project: str, name: str) -> workspaces.Workspace:
    """Return the saved view; nothing is sent before its `save`."""
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[
            workspaces.Section(
                name=title,
                panels=panels,
                is_open=True,
                layout_settings=workspaces.SectionLayoutSettings(columns=min(3, len(panels)), rows=1),
            )
            for title, panels in SECTIONS.items()
        ],
        settings=workspaces.WorkspaceSettings(x_axis=X_AXIS, max_runs=20),
    )
