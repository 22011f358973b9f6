"""The commands around a live run: fleming watch, fleming dashboards."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Annotated

import typer

from cluster.arguments import refuse_ignored
from cluster.monitoring.remote import ClusterReader, is_address
from cluster.monitoring.sight import RunReader
from cluster.plain_errors import plain_errors
from data.storage import Storage

PLAIN_WIDTH = 110
"""Columns of a view that is printed: a log or a picture has no width of its own."""

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


def watch(
    context: typer.Context,
    target: Annotated[
        str,
        typer.Argument(
            help="a run's folder, URI or name (under ~/fleming-runs), or the address of Ray's dashboard",
            metavar="RUN|ADDRESS",
            show_default=False,
        ),
    ],
    once: Annotated[bool, typer.Option("--once", help="print the view once, without taking the terminal")] = False,
    every: Annotated[float, typer.Option(min=0.5, help="seconds between two looks")] = 3.0,
    run: Annotated[str, typer.Option(help="which run of a cluster; default: the one last heard of")] = "",
    svg: Annotated[Path | None, typer.Option(help="with --once: also write the view as a picture")] = None,
) -> None:
    """Watch a run: stage, learning curve, throughput, queues, actors, recent completions and events.

    Reading a run's folder needs no Ray. Ctrl-C ends the watching, never the run.
    """
    from rich.console import Console
    from rich.live import Live

    from cluster.monitoring.view import render

    with plain_errors():
        refuse_ignored(context, once or svg is not None, "where the view is printed once", "--every")
        refuse_ignored(context, not is_address(target), "for a run's own folder", "--run")
        reader = _reader(target, run)
        console = Console(highlight=False, record=svg is not None)
        if once or svg is not None or not console.is_terminal:
            console.width = max(console.width, PLAIN_WIDTH)
            console.print(render(reader.look()))
            if svg is not None:
                console.save_svg(str(svg), title="fleming watch")
            return
        with contextlib.suppress(KeyboardInterrupt), Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                live.update(render(reader.look()), refresh=True)
                time.sleep(every)


def _reader(target: str, run: str) -> RunReader | ClusterReader:
    if is_address(target):
        return ClusterReader(target, run)
    storage = Storage.open(target)
    if "/" not in target and not storage.exists():
        storage = Storage.open(f"~/fleming-runs/{target}")
    return RunReader(storage)
