"""The reward service on real Ray Serve, over real HTTP."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest
import ray
from ray import serve

from reward_service.config import RewardConfig, ServiceConfig, WorkerConfig
from reward_service.serve_app import deploy
from tests.aio import aio
from tests.data.examples import MARFAN

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

TOKEN = "for-this-test"
QUESTION = {
    key: value
    for key, value in dataclasses.asdict(MARFAN).items()
    if key in ("stem", "options", "answer_label", "accepted_answers")
}
MEMORY_MIB = 1000
"""Marks the worker processes of this test."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = not ray.is_initialized()
    if started:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    service = ServiceConfig(port=port, max_pending_requests=4, cpus_per_replica=0.5)
    deploy(service, RewardConfig(workers=WorkerConfig(memory_mib=MEMORY_MIB)), TOKEN)
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()
    if started:
        ray.shutdown()


def said(answer: str) -> dict[str, Any]:
    return {"question": QUESTION, "text": f"<think>x</think><answer>{answer}</answer>"}


@aio
async def test_scores_refusals_streams_and_recovery_over_real_http(url: str) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=60.0, trust_env=False) as http:
        assert (await http.get("/healthz")).status_code == 200
        assert (await http.post("/score", json=said("B"))).status_code == 401
        http.headers["authorization"] = f"Bearer {TOKEN}"
        one = await http.post("/score", json=said("B"), headers={"x-request-id": "mine-1"})
        assert (one.json()["reward"], one.headers["x-request-id"]) == (1.1, "mine-1")
        lines = "\n".join(json.dumps(said("ABCD"[i % 4])) for i in range(700))
        streamed = await http.post("/score", content=lines, headers={"content-type": "application/x-ndjson"})
        reasons = [json.loads(line)["reason"] for line in streamed.text.splitlines()]
        assert reasons == ["correct" if i % 4 == 1 else "wrong" for i in range(700)]
        # A worker that is killed from outside costs nobody an answer.
        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or []
            if command[2:4] == ["-m", "reward_service"] and command[-1] == str(MEMORY_MIB):
                os.kill(process.pid, signal.SIGKILL)
        assert (await http.post("/score", json=said("B"))).json()["reward"] == 1.1
        # More than there is room for: some are told to come back, and everyone gets an answer.
        batch = {"items": [said("B")] * 500}
        answers = await asyncio.gather(*(http.post("/score", json=batch) for _ in range(24)))
        codes = [answer.status_code for answer in answers]
        assert set(codes) == {200, 429}, codes
        for answer in answers:
            if answer.status_code == 429:
                assert answer.headers["retry-after"] == "1"
            else:
                assert [r["reason"] for r in answer.json()["results"]] == ["correct"] * 500
        assert "fleming_reward_verdicts_total" in (await http.get("/metrics")).text
