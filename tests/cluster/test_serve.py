"""`fleming serve rewards` refuses what would be open to others or cannot listen, in one line and before Ray starts."""

from __future__ import annotations

import socket

import pytest
from typer.testing import CliRunner

from cluster.cli import app
from cluster.serve import token_of
from data.errors import ConfigError
from reward_service.config import ServiceConfig


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "example.org", ""])
def test_an_open_address_needs_a_token(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLEMING_REWARD_TOKEN", raising=False)
    if host:
        with pytest.raises(ConfigError, match="FLEMING_REWARD_TOKEN"):
            token_of(ServiceConfig(host=host))
        monkeypatch.setenv("FLEMING_REWARD_TOKEN", "secret")
        assert token_of(ServiceConfig(host=host)) == "secret"
    else:
        assert token_of(ServiceConfig()) == ""


def test_a_taken_port_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = CliRunner().invoke(app, ["serve", "rewards", "--port", str(taken.getsockname()[1])])
    assert result.exit_code == 1 and "choose another --port" in result.output


def test_bounds_of_replicas() -> None:
    with pytest.raises(ValueError, match="below"):
        ServiceConfig(min_replicas=3, max_replicas=2)
