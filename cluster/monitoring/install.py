"""Puts the dashboard and the alerts where Grafana and Prometheus look: into Ray's own configuration, or a folder.

Ray writes a ready configuration of both under ``metrics/`` of its session folder. Its Grafana reads every dashboard in
``metrics/grafana/dashboards``; its Prometheus is started with ``metrics/prometheus/prometheus.yml``.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import yaml

from cluster.monitoring.alerts import RULES, rules_yaml
from cluster.monitoring.panels import dashboard_json, embedded
from data.errors import SetupError

DASHBOARD = "fleming_grafana_dashboard.json"
RAY_DEFAULT = "default_grafana_dashboard.json"


def default_root() -> Path:
    """Where the newest Ray of this machine has its metrics configuration (Ray's own variables are obeyed)."""
    root = os.environ.get("RAY_METRICS_OUTPUT_ROOT")
    return Path(root) if root else Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "session_latest" / "metrics"


def root_of(raylet_socket: str) -> Path:
    """The same for the session of one raylet, whose socket is ``SESSION/sockets/raylet``."""
    root = os.environ.get("RAY_METRICS_OUTPUT_ROOT")
    return Path(root) if root else Path(raylet_socket).parents[1] / "metrics"


def export(folder: Path) -> list[Path]:
    """Write the dashboard and the rules into ``folder``; returns the files.

    Raises:
        SetupError: the folder cannot be written.
    """
    files = {folder / DASHBOARD: dashboard_json(), folder / RULES: rules_yaml()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in files.items():
            _write(path, text)
    except OSError as error:
        raise SetupError(f"cannot write to {folder}: {error.strerror}", remedy="name another folder") from error
    return list(files)


def install(root: Path) -> list[Path]:
    """Add Fleming to the configuration that Ray wrote under ``root``; returns the files changed. Safe to repeat.

    Raises:
        SetupError: Ray has written no configuration there, or it cannot be changed.
    """
    dashboards = Path(os.environ.get("RAY_METRICS_GRAFANA_DASHBOARD_OUTPUT_DIR", root / "grafana" / "dashboards"))
    ray_default, prometheus = dashboards / RAY_DEFAULT, root / "prometheus" / "prometheus.yml"
    if not ray_default.is_file() or not prometheus.is_file():
        raise SetupError(
            f"there is no metrics configuration of Ray at {root}",
            remedy="run it on the head node while Ray runs with its dashboard, or name the folder with --root",
        )
    try:
        _write(dashboards / DASHBOARD, dashboard_json())
        _write(ray_default, json.dumps(embedded(json.loads(ray_default.read_text(encoding="utf-8"))), indent=1))
        _write(prometheus.parent / RULES, rules_yaml())
        _write(prometheus, yaml.safe_dump(with_rules(yaml.safe_load(prometheus.read_text())), sort_keys=False))
    except OSError as error:
        raise SetupError(
            f"cannot write to {error.filename}: {error.strerror}", remedy="run it as the user who started Ray"
        ) from error
    return [dashboards / DASHBOARD, ray_default, prometheus.parent / RULES, prometheus]


def install_when_ready(root: Path, timeout_s: float) -> None:
    """`install`, once Ray's dashboard has written its configuration: it does so a moment after it came up."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            install(root)
            return
        except SetupError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def with_rules(prometheus: dict[str, Any]) -> dict[str, Any]:
    """A Prometheus configuration that loads the rules lying beside it."""
    files = [file for file in prometheus.get("rule_files") or [] if file != RULES]
    return {**prometheus, "rule_files": [*files, RULES]}


def _write(path: Path, text: str) -> None:
    """Whole or not at all: Grafana looks every few seconds."""
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
