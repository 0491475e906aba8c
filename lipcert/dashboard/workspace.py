"""Turns the sections of the dashboard into a workspace of the library wandb-workspaces."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch
from typing import Any

import wandb_workspaces.workspaces as workspaces
from wandb_workspaces.reports.v2.interface import BarPlot, Layout, LinePlot, WeavePanelSummaryTable

from lipcert.dashboard.panels import X_AXIS, Bars, Curves, Rows, Section

GRID = 24
"""Columns of the grid on which panels of a workspace lie."""


def build_workspace(entity: str, project: str, name: str, sections: Sequence[Section]) -> workspaces.Workspace:
    """Return the workspace; nothing is sent before its `save`."""
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[
            workspaces.Section(
                name=section.name,
                panels=[panel(each) for each in section.panels],
                is_open=True,
                layout_settings=workspaces.SectionLayoutSettings(columns=min(3, len(section.panels)), rows=1),
            )
            for section in sections
        ],
        settings=workspaces.WorkspaceSettings(x_axis=X_AXIS, max_runs=20),
    )


def definition(workspace: workspaces.Workspace) -> dict[str, Any]:
    """Return what `save` would send, as plain values."""
    view = workspace._to_model()
    return view.model_dump(mode="json", by_alias=True, exclude_none=True)


@singledispatch
def panel(definition: Any) -> Any:
    """Return the library's panel for one of ours."""
    raise NotImplementedError(f"No panel for {type(definition).__name__}.")


@panel.register
def _(curves: Curves) -> LinePlot:
    return LinePlot(
        title=curves.title,
        x=X_AXIS,
        y=list(curves.keys),
        metric_regex=curves.pattern,
        log_y=curves.logarithmic or None,
        range_y=(0, 1) if curves.fraction else (None, None),
        smoothing_type="none",
    )


@panel.register
def _(bars: Bars) -> BarPlot:
    return BarPlot(title=bars.title, metrics=list(bars.keys), range_x=(0, 1))


@panel.register
def _(rows: Rows) -> WeavePanelSummaryTable:
    return WeavePanelSummaryTable(table_name=rows.key, layout=Layout(w=GRID, h=12))
