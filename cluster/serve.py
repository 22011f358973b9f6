"""`fleming serve rewards`: the scorer of a run as an HTTP service on Ray Serve, for whoever trains with other code."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.plain_errors import plain_errors
from data.errors import ConfigError, SetupError

if TYPE_CHECKING:
    from reward_service.config import RewardConfig, ServiceConfig

serve_app = typer.Typer(name="serve", no_args_is_help=True, help="Offer a part of Fleming as a service.")


@serve_app.callback()
def _group() -> None:
    """Keep `rewards` a command of its own, though it is the only one."""


@serve_app.command()
def rewards(
    host: Annotated[str, typer.Option(help="address to listen on; any but loopback needs a token")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8700,
    recipe: Annotated[Path | None, typer.Option(help="take the settings of the rewards from it")] = None,
    replicas: Annotated[int, typer.Option(min=1, help="fewest replicas")] = 1,
    max_replicas: Annotated[int, typer.Option(min=0, help="most replicas under load; 0: as many as replicas")] = 0,
    max_pending: Annotated[int, typer.Option(min=1, help="requests per replica beyond which it answers 429")] = 64,
) -> None:
    """Serve POST /score until Ctrl-C. The bearer token is read from FLEMING_REWARD_TOKEN."""
    from cluster.config import load_recipe
    from reward_service.config import RewardConfig, ServiceConfig

    with plain_errors():
        if 0 < max_replicas < replicas:
            raise ConfigError(
                f"--max-replicas {max_replicas} is below --replicas {replicas}", remedy="raise it, or leave it out"
            )
        settings = load_recipe(recipe).rewards if recipe else RewardConfig()
        service = ServiceConfig(
            host=host,
            port=port,
            min_replicas=replicas,
            max_replicas=max_replicas or replicas,
            max_pending_requests=max_pending,
        )
        run_service(service, settings)


def run_service(service: ServiceConfig, settings: RewardConfig) -> None:
    """Start Ray (or join the cluster of RAY_ADDRESS), serve, and end what was started on Ctrl-C or SIGTERM.

    Raises:
        ConfigError: the address can be reached from outside and no token is set.
        SetupError: the port is taken.
    """
    token = token_of(service)
    check_port(service)
    stopped = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stopped.set())
    import ray
    from ray import serve

    from reward_service.serve_app import deploy

    address = os.environ.get("RAY_ADDRESS")
    # A dashboard of its own would be one more thing that listens; a cluster has one already.
    local = {} if address else {"include_dashboard": False}
    ray.init(address=address, log_to_driver=False, logging_level="warning", **local)
    try:
        deploy(service, settings, token)
        guarded = "with a bearer token" if token else "without a token, loopback only"
        typer.echo(
            f"rewards at http://{service.host}:{service.port} ({guarded}); /docs shows how to ask. Ctrl-C ends it."
        )
        stopped.wait()
    finally:
        serve.shutdown()
        ray.shutdown()


def token_of(service: ServiceConfig) -> str:
    """The bearer token of the environment; may be missing on loopback only."""
    token = os.environ.get(service.token_env, "").strip()
    if not token and not service.is_loopback:
        raise ConfigError(
            f"host {service.host} can be reached from other machines and {service.token_env} is not set",
            remedy=f"set {service.token_env} to a long random text, or listen on 127.0.0.1",
        )
    return token


def check_port(service: ServiceConfig) -> None:
    """Say it in one line when the port is taken; Ray would say it in many."""
    import socket

    family = socket.AF_INET6 if ":" in service.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((service.host, service.port))
        except OSError as error:
            raise SetupError(
                f"cannot listen on {service.host}:{service.port} ({error.strerror})", remedy="choose another --port"
            ) from None
