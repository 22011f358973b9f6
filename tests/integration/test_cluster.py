"""A real cluster of two raylets with token authentication: who may send jobs, and what a job that fails gives.

Whole runs on such a cluster are in tests/soak/test_cluster.py.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import runs
from tests.integration.clusters import TokenCluster, token_cluster

pytestmark = pytest.mark.timeout(900)

RECIPE = "recipes/quickstart.yaml"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenCluster]:
    with token_cluster(tmp_path_factory.mktemp("cluster"), ["--num-cpus=1"]) as it:
        yield it


def test_without_the_token_nobody_gets_in_and_the_remedy_is_said(cluster: TokenCluster) -> None:
    refused = cluster.fleming("jobs", "--address", cluster.address, RAY_AUTH_MODE="disabled")
    assert refused.returncode == 1
    assert "wants a token" in refused.stderr and "export RAY_AUTH_MODE=token" in refused.stderr


def test_a_job_that_fails_gives_its_error_and_exit_code(cluster: TokenCluster, tmp_path: Path) -> None:
    settings = ("--set", f"run.storage={tmp_path / 'runs'}", "--set", "learner.ranks=7")
    began = time.monotonic()
    done = cluster.fleming("submit", RECIPE, "--address", cluster.address, *settings)
    runs.say(f"refused after {time.monotonic() - began:.0f} s:\n{done.stdout}")
    assert done.returncode == 1
    assert "the cluster cannot hold the recipe" in done.stdout
    assert "7 x (1 CPU)" in done.stdout and "learner.ranks" in done.stdout and "on 2 nodes" in done.stdout
    assert "failed, exit code 1" in done.stderr
    assert not (tmp_path / "runs").exists()
    listed = cluster.fleming("jobs", "--address", cluster.address).stdout
    assert "failed" in listed and "fleming-quickstart-" in listed
