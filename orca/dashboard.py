"""Make the saved workspace and the report of a W&B project.

    python -m orca.dashboard entity=NAME project=orca
    python -m orca.dashboard entity=NAME project=orca swept=[optimizer.lr,seed]
    python -m orca.dashboard entity=NAME out=dashboard.json     # no account, no network

Run again, it brings both up to date: the workspace is found by a name that follows from its title,
the report by its title. What was changed by hand in them is replaced. Options are in
conf/dashboard.yaml, what is shown is in `orca/dashboard_panels.py`.
"""

from __future__ import annotations

import hashlib
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from orca.config import check_config, run_program
from orca.dashboard_panels import (
    EVALUATIONS,
    SECTIONS,
    TRAINING,
    Plot,
    Section,
    config_key,
    paper_tables,
    sweep_section,
)
from orca.errors import UserError
from orca.training.wandb_run import has_api_key, server_url

OPTIONS = ("entity", "project", "title", "swept", "out")
FILTERS = {
    TRAINING: "Metric('JobType') != 'evaluation'",
    EVALUATIONS: "Metric('JobType') = 'evaluation'",
}
GOALS = ("val/loss.min", "val/exact_answer")
"""What options of a sweep are compared by; of the runs' summaries."""
PATIENCE = 20.0  # seconds for W&B's server to be there


def main(config: DictConfig) -> None:
    """Write the specification, or save workspace and report."""
    check_config(config, OPTIONS)
    if not isinstance(config.swept, Sequence) or isinstance(config.swept, str):
        raise UserError(f"swept={config.swept}: a list, as swept=[optimizer.lr,seed]")
    try:
        import wandb_workspaces  # noqa: F401
    except ImportError:
        raise UserError(
            "python -m orca.dashboard needs wandb-workspaces: pip install -e '.[dashboard]'"
        ) from None
    given = (config.entity, config.project, config.title, list(config.swept))
    if config.out is not None:
        try:
            written = specification(build_workspace(*given), build_report(*given, whole=False))
        except ValueError as error:
            raise UserError(f"title={config.title} cannot be used: {error}") from None
        Path(config.out).write_text(json.dumps(written, indent=1), encoding="utf-8")
        print(f"{config.out}: what would be saved; nothing was", flush=True)
    else:
        for url in save(*given):
            print(url, flush=True)


def build_workspace(entity: str, project: str, title: str, swept: Sequence[str] = ()) -> Any:
    """The workspace: every section, training runs grouped by group and stage in its table."""
    import wandb_workspaces.workspaces as ws

    return ws.Workspace(
        entity=entity,
        project=project,
        name=title,
        sections=[
            ws.Section(
                name=section.title,
                panels=[*map(_panel, section.plots), *_comparison(section, swept)],
                is_open=section.runs == TRAINING,
            )
            for section in _sections(swept)
        ],
        settings=ws.WorkspaceSettings(x_axis="Step", group_by_prefix="first"),
        runset_settings=ws.RunsetSettings(
            pinned_columns=[
                "run:displayName",
                *(f"config:{name}.value" for name in ("stage", "model", "data", "arm", "job")),
                *(f"summary:{name}" for name in (*GOALS, "data/target_tokens")),
            ]
        ),
    )


def build_report(
    entity: str, project: str, title: str, swept: Sequence[str] = (), whole: bool = True
) -> Any:
    """The report: the same panels with words between them, and the paper's tables.

    Args:
        whole: False: sets of runs do not name the project, whose id only a server knows.
    """
    import wandb_workspaces.reports.v2 as wr

    blocks: list[Any] = [wr.TableOfContents()]
    place: dict[str, Any] = {"entity": entity, "project": project} if whole else {}
    for section in _sections(swept):
        runs = wr.Runset(name=section.runs, filters=FILTERS[section.runs], **place)
        panels = [*map(_panel, section.plots), *_comparison(section, swept)]
        for number, panel in enumerate(panels):
            panel.layout = wr.Layout(x=8 * (number % 3), y=6 * (number // 3), w=8, h=6)
        blocks.append(wr.H1(section.title))
        if section.text:
            blocks.append(wr.MarkdownBlock(section.text))
        blocks.append(wr.PanelGrid(runsets=[runs], panels=panels))
    blocks += [wr.H1("The paper's numbers"), wr.P("Per cent, as printed (arXiv 2306.02707).")]
    blocks += [wr.MarkdownBlock(table.markdown()) for table in paper_tables()]
    description = (
        "Losses, data, throughput, benchmarks and sweeps; made by python -m orca.dashboard"
    )
    return wr.Report(
        entity=entity,
        project=project,
        title=title,
        description=description,
        blocks=blocks,
        width="fluid",
    )


def specification(workspace: Any, report: Any) -> dict[str, Any]:
    """Both as W&B's server would get them."""
    view, page = workspace._to_model(), report._to_model()

    def plain(spec: Any) -> Any:
        return json.loads(spec.model_dump_json(by_alias=True, exclude_none=True))

    return {
        "workspace": {"name": view.display_name, "spec": plain(view.spec)},
        "report": {"name": page.display_name, "spec": plain(page.spec)},
    }


def save(entity: str, project: str, title: str, swept: Sequence[str] = ()) -> list[str]:
    """Save both, in the place of those of the same title; their addresses.

    Raises:
        UserError: no key, no server, no such project, or the server refuses.
    """
    _check_server()
    import wandb
    from wandb_workspaces.workspaces import internal

    try:
        workspace = build_workspace(entity, project, title, swept)
        key = hashlib.sha256(title.encode()).hexdigest()[:11]
        workspace._internal_name = f"nw-{key}-v"
        try:
            known = internal.View.from_name(entity, project, workspace._internal_name)
            workspace._internal_id = known.id
        except ValueError as error:  # it is the library's word for both
            if "Workspace" not in str(error):
                raise
        report = build_report(entity, project, title, swept)
        reports = wandb.Api().reports(f"{entity}/{project}")
        report.id = next((one.id for one in reports if one.display_name == title), "")
        workspace.save()
        report.save()
    except (wandb.Error, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"W&B did not save the dashboard of {entity}/{project}: {reason} Is there such a "
            "project (a run makes it: logger=wandb, or wandb sync), and may this key write to it?"
        ) from None
    return [workspace.url, report.url]


def _check_server() -> None:
    """Say at once what the library would wait for."""
    if not has_api_key():
        raise UserError(
            "no W&B key: run wandb login, or set WANDB_API_KEY; out=FILE needs none and writes "
            "what would be saved"
        )
    url = server_url()
    try:
        urllib.request.urlopen(url, timeout=PATIENCE).close()
    except urllib.error.HTTPError:
        pass  # it answers
    except OSError as error:
        raise UserError(
            f"W&B's server {url} cannot be reached ({error}); out=FILE needs none and writes what "
            "would be saved"
        ) from None


def _sections(swept: Sequence[str]) -> list[Section]:
    return [*SECTIONS[:2], sweep_section(swept), *SECTIONS[2:]]


def _panel(plot: Plot) -> Any:
    import wandb_workspaces.reports.v2 as wr

    group: dict[str, Any] = {}
    if plot.by:
        group = {"groupby": wr.Config(plot.by), "groupby_aggfunc": "mean"}
    if plot.kind == "bar":
        return wr.BarPlot(title=plot.title, metrics=list(plot.metrics), **group)
    pattern = plot.metrics[0] if plot.metrics[0].endswith("/.+") else None
    if plot.by:
        group["groupby_rangefunc"] = "minmax"
    return wr.LinePlot(
        title=plot.title,
        x=plot.x,
        y=[] if pattern else list(plot.metrics),
        metric_regex=f"^{pattern}$" if pattern else None,
        log_y=plot.log or None,
        **group,
    )


def _comparison(section: Section, swept: Sequence[str]) -> list[Any]:
    """Panels that compare the jobs of sweeps."""
    import wandb_workspaces.reports.v2 as wr

    if section.title != "Sweeps":
        return []
    column = wr.ParallelCoordinatesPlotColumn
    keys = [config_key(option) for option in swept] or ["stage", "seed", "config.optimizer.lr"]
    columns = [column(wr.Config(key)) for key in keys]
    columns += [column(wr.SummaryMetric(goal)) for goal in GOALS]
    importance = [wr.ParameterImportancePlot(with_respect_to=goal) for goal in GOALS]
    return [wr.ParallelCoordinatesPlot(columns=columns, title="options and results"), *importance]


if __name__ == "__main__":
    run_program(main, "dashboard")
