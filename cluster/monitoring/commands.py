"""The fleming dashboards commands: put dashboard and alerts where Grafana and Prometheus look for them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.plain_errors import plain_errors

dashboards_app = typer.Typer(name="dashboards", no_args_is_help=True, help="The Grafana dashboard and the alerts.")


@dashboards_app.command()
def install(
    root: Annotated[
        Path | None,
        typer.Option(help="Ray's metrics folder; default: of the Ray on this machine", show_default=False),
    ] = None,
) -> None:
    """Add Fleming to the Grafana and Prometheus configuration that Ray wrote (on the head node, while Ray runs).

    The dashboard then stands in Grafana's folder "Ray", and its panels on top in the Metrics tab of Ray's dashboard.
    """
    from cluster.monitoring import install as installing

    with plain_errors():
        for path in installing.install(root or installing.default_root()):
            typer.echo(str(path))


@dashboards_app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="where the two files go", show_default=False)],
) -> None:
    """Write the dashboard (JSON) and the alert rules (YAML) into a folder, for a Grafana and Prometheus of your own."""
    from cluster.monitoring import install as installing

    with plain_errors():
        for path in installing.export(folder):
            typer.echo(str(path))
