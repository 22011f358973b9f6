"""The dashboard and the alerts are whole: every metric is drawn, every alert fires and rests as its cases say."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.dashboard.modules.metrics.grafana_dashboard_factory import generate_default_grafana_dashboard
from ray.dashboard.modules.metrics.templates import PROMETHEUS_YML_TEMPLATE
from typer.testing import CliRunner

from cluster.cli import app
from cluster.monitoring import alerts, install, panels
from cluster.monitoring.catalogue import METRICS
from tests.conftest import CHECKOUT

MONITORING = CHECKOUT / "cluster" / "monitoring"
NO_PROMETHEUS = "promtool is not on this machine (Debian and Ubuntu: apt-get install prometheus)"


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("promtool") is None:
        pytest.skip(NO_PROMETHEUS)
    return subprocess.run(["promtool", *map(str, arguments)], check=False, capture_output=True, text=True, timeout=60)


def queries(dashboard: dict[str, Any]) -> list[str]:
    """Every query of a dashboard, also those in folded rows."""
    whole = [part for panel in dashboard["panels"] for part in (panel, *panel.get("panels", []))]
    return [target["expr"] for panel in whole for target in panel.get("targets", [])]


def test_every_metric_is_drawn_and_nothing_else() -> None:
    drawn = set(re.findall(r"ray_fleming_\w+", " ".join(queries(panels.dashboard()))))
    assert drawn == {metric.exported for metric in METRICS.values()}


def test_alerts_stand_on_metrics_of_the_table() -> None:
    named = set(re.findall(r"ray_fleming_\w+", alerts.rules_yaml()))
    assert named <= {metric.exported for metric in METRICS.values()}
    for topic in (
        "Stalled",
        "EnginesSilent",
        "Staleness",
        "LogprobGap",
        "RewardCollapse",
        "EntropyCollapse",
        "Restarts",
        "Disk",
    ):
        assert any(topic in alert.name for alert in alerts.ALERTS), topic


def test_every_alert_fires_and_rests_as_its_cases_say() -> None:
    assert promtool("check", "rules", MONITORING / alerts.RULES).returncode == 0
    done = promtool("test", "rules", MONITORING / "fleming_alerts_test.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_rule_that_never_fires_is_seen(tmp_path: Path) -> None:
    rules = yaml.safe_load(alerts.rules_yaml())
    (rule,) = (rule for rule in rules["groups"][0]["rules"] if rule["alert"] == "FlemingStaleness")
    rule["expr"] += " + 100"
    (tmp_path / alerts.RULES).write_text(yaml.safe_dump(rules))
    (tmp_path / "cases.yml").write_text(alerts.cases_yaml())
    done = promtool("test", "rules", tmp_path / "cases.yml")
    assert done.returncode != 0 and "FlemingStaleness" in done.stdout + done.stderr


@pytest.fixture
def ray_metrics(tmp_path: Path) -> Path:
    """The folder that Ray's dashboard writes, made by Ray's own generator."""
    (tmp_path / "grafana" / "dashboards").mkdir(parents=True)
    (tmp_path / "prometheus").mkdir()
    content, _ = generate_default_grafana_dashboard()
    (tmp_path / "grafana" / "dashboards" / install.RAY_DEFAULT).write_text(content)
    text = PROMETHEUS_YML_TEMPLATE.format(prom_metrics_service_discovery_file_path=tmp_path / "discovery.json")
    (tmp_path / "prometheus" / "prometheus.yml").write_text(text)
    (tmp_path / "discovery.json").write_text("[]")
    return tmp_path


def test_install_adds_to_what_ray_wrote_and_takes_nothing_away(ray_metrics: Path) -> None:
    default = ray_metrics / "grafana" / "dashboards" / install.RAY_DEFAULT
    before = json.loads(default.read_text())
    done = CliRunner().invoke(app, ["dashboards", "install", "--root", str(ray_metrics)])
    assert done.exit_code == 0, done.output
    after = json.loads(default.read_text())
    assert set(queries(before)) | set(queries(panels.dashboard())) == set(queries(after))
    assert after["uid"] == before["uid"] and after["panels"][0]["title"] == "Fleming: learning"
    places = [(p["gridPos"]["y"], p["gridPos"]["x"]) for p in after["panels"]]
    assert len(set(places)) == len(places) and places == sorted(places)
    ids = [part["id"] for panel in after["panels"] for part in (panel, *panel.get("panels", []))]
    assert len(set(ids)) == len(ids)
    assert {"datasource", "SessionName", "run"} <= {variable["name"] for variable in after["templating"]["list"]}
    assert (default.parent / install.DASHBOARD).read_text() == panels.dashboard_json()

    assert CliRunner().invoke(app, ["dashboards", "install", "--root", str(ray_metrics)]).exit_code == 0
    assert json.loads(default.read_text()) == after, "twice is as good as once"
    configuration = ray_metrics / "prometheus" / "prometheus.yml"
    assert yaml.safe_load(configuration.read_text())["rule_files"] == [alerts.RULES]
    checked = promtool("check", "config", configuration)
    assert checked.returncode == 0 and f"{len(alerts.ALERTS)} rules found" in checked.stdout, checked


def test_export_and_its_errors(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["dashboards", "export", str(tmp_path / "here")])
    assert done.exit_code == 0 and sorted(os.listdir(tmp_path / "here")) == [alerts.RULES, install.DASHBOARD]
    (tmp_path / "file").write_text("")
    assert CliRunner().invoke(app, ["dashboards", "export", str(tmp_path / "file" / "x")]).exit_code == 1
    assert CliRunner().invoke(app, ["dashboards", "install", "--root", str(tmp_path)]).exit_code == 1
