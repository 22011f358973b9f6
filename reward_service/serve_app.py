"""The HTTP application on Ray Serve: replicas that scale with load, behind Serve's proxy.

Who waits for whom
    the proxy   holds a request until a replica has room, for which it looks every `ROUTER_WAIT_S`; beyond
                `max_queued_requests` it answers 429 itself, before the body is read
    a replica   takes `max_pending_requests` at once and answers 429 beyond that; each has worker processes of its own
    Serve       starts a replica that died anew, and adds or removes one when the requests under way ask for it
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig, RequestRouterConfig
from ray.serve.schema import LoggingConfig

from reward_service.config import RewardConfig, ServiceConfig
from reward_service.http_app import create_app
from reward_service.http_guard import RETRY_AFTER_S

APP_NAME = "fleming-rewards"
ROUTER_WAIT_S = 0.005
"""Seconds between two looks of the proxy for a free place. Serve's own pause doubles up to 0.5 s, in which replicas
stand idle while the queue before them is full and everybody else is told 429."""


def build_app(service: ServiceConfig, rewards: RewardConfig, token: str) -> FastAPI:
    """The application of one replica; called inside it."""
    replica = serve.get_replica_context().replica_id.unique_id
    return create_app(service, rewards, token=token, replica=replica, marks_requests=False)


def deploy(service: ServiceConfig, rewards: RewardConfig, token: str) -> None:
    """Start the service on the Ray cluster that this process is connected to, and wait until it answers."""
    # A line on disk for each refusal would make overload worse; /metrics counts the requests by status.
    quiet = LoggingConfig(enable_access_log=False)
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": service.host, "port": service.port},
        logging_config=quiet,
    )

    def builder() -> FastAPI:  # a plain function: Serve takes any other callable for the application itself
        return build_app(service, rewards, token)

    deployment: Any = serve.deployment(
        serve.ingress(builder)(),
        name="rewards",
        logging_config=quiet,
        ray_actor_options={"num_cpus": service.cpus_per_replica},
        max_ongoing_requests=service.max_pending_requests,
        max_queued_requests=service.max_pending_requests,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=RETRY_AFTER_S),
        request_router_config=RequestRouterConfig(initial_backoff_s=ROUTER_WAIT_S, max_backoff_s=2 * ROUTER_WAIT_S),
        autoscaling_config=AutoscalingConfig(
            min_replicas=service.min_replicas,
            max_replicas=service.max_replicas,
            target_ongoing_requests=max(1, service.max_pending_requests // 4),
        ),
        health_check_period_s=10,
    )
    serve.run(deployment.bind(), name=APP_NAME, route_prefix="/")
