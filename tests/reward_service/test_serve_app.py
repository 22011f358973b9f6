"""How the application is put on Ray Serve, without a cluster: what Serve is asked for."""

from __future__ import annotations

from typing import Any

import pytest
from ray import serve

from reward_service import serve_app
from reward_service.config import RewardConfig, ServiceConfig


def test_serve_is_asked_to_refuse_early_and_to_look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve's own router looks for a free place ever more rarely, up to every 0.5 s: under overload the replicas then
    stand idle while everybody is told 429."""
    asked: dict[str, Any] = {}
    monkeypatch.setattr(serve, "start", asked.update)
    monkeypatch.setattr(serve, "run", lambda app, **options: asked.update(app=app, run=options))
    serve_app.deploy(ServiceConfig(port=8701, max_pending_requests=7, max_replicas=3), RewardConfig(), "")
    deployment = asked["app"]._bound_deployment
    settings = deployment._deployment_config
    assert settings.request_router_config.initial_backoff_s <= settings.request_router_config.max_backoff_s <= 0.02
    assert (settings.max_ongoing_requests, settings.max_queued_requests) == (7, 7)
    assert settings.backpressure_config.status_code == 429
    assert settings.autoscaling_config.max_replicas == 3
    assert asked["http_options"] == {"host": "127.0.0.1", "port": 8701}
    assert not asked["logging_config"].enable_access_log  # no line on disk for each refusal
