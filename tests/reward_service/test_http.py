"""The HTTP application in process: forms, refusals, streams and metrics, over real worker processes."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import ValidationError

from reward_service.config import RewardConfig, ServiceConfig, WorkerConfig
from reward_service.http_app import create_app
from reward_service.http_schema import request_adapter
from reward_service.workers import WorkerHost
from tests.aio import aio
from tests.data.examples import MARFAN

QUESTION = {
    key: value
    for key, value in dataclasses.asdict(MARFAN).items()
    if key in ("stem", "options", "answer_label", "accepted_answers", "source")
}
OBEY = {"stem": "What?", "verifier": "obey", "accepted_answers": ["stroke"]}
REWARDS = RewardConfig(
    user_verifiers={"obey": "tests.reward_service.hostile_verifiers:obey"},
    workers=WorkerConfig(item_timeout_s=1.0, strikes=1, backoff_s=0.01),
)


def said(answer: str, question: dict[str, Any] = QUESTION) -> dict[str, Any]:
    return {"question": question, "text": f"<think>x</think><answer>{answer}</answer>"}


@asynccontextmanager
async def client(token: str = "", app: FastAPI | None = None, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    made = app or create_app(ServiceConfig(**settings), REWARDS, token=token, replica="r1")
    transport = httpx.ASGITransport(app=made)
    async with made.router.lifespan_context(made), httpx.AsyncClient(transport=transport, base_url="http://t") as http:
        yield http


@aio
async def test_single_batch_and_failure() -> None:
    async with client() as http:
        one = await http.post("/score", json=said("B"))
        assert one.status_code == 200
        assert one.json() == {
            "reward": 1.1, "correct": 1.0, "format": 1.0, "reason": "correct", "answer": "B",
            "verifier_version": "mcq-strict/3", "failure": None,
        }  # fmt: skip
        items = [
            said("A or B"),
            said("exit", OBEY),
            said("stroke", OBEY),
            said("nan", OBEY),
            said("x", {**OBEY, "verifier": "os:system"}),
        ]
        many = (await http.post("/score", json={"items": items})).json()["results"]
        assert [r["reason"] for r in many] == ["hedged", None, "correct", None, None]
        assert [r["failure"] and r["failure"]["kind"] for r in many] == [None, "crash", None, "error", "unverifiable"]
        assert many[1]["reward"] is None
        page = (await http.get("/metrics")).text
        assert 'fleming_reward_verdicts_total{reason="hedged",replica="r1"} 1.0' in page
        assert 'fleming_reward_failures_total{kind="crash",replica="r1"} 1.0' in page
        assert 'fleming_reward_requests_total{path="/score",replica="r1",status="200"} 2.0' in page


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"[]", "object"),
        (b"\xff\xfe", "JSON"),
        (b'{"items": []}', "at least 1"),
        (b'{"items": 5}', "array"),
        (b"[" * 100_000, "JSON"),
        (json.dumps({**said("B"), "extra": 1}).encode(), "extra"),
        (json.dumps(said("B", {"stem": "x"})).encode(), "options has 0"),
        (json.dumps({"items": [said("B"), said("B", {**QUESTION, "answer_label": "Z"})]}).encode(), "items.1"),
        (b'{"question": {"stem": "\\ud800", "options": [], "verifier": "text"}, "text": "x"}', ""),
        (json.dumps({"items": [said("B")] * 5}).encode(), "at most 4 items"),
        (json.dumps(said("B", {**QUESTION, "colour": 1})).encode(), "ItemIn.question: unknown fields colour"),
    ],
)
def test_a_body_of_another_form_is_422_with_the_field(body: bytes, problem: str) -> None:
    async def ask() -> httpx.Response:
        async with client(max_items=4) as http:
            return await http.post("/score", content=body, headers={"content-type": "application/json"})

    response = asyncio.run(ask())
    assert response.status_code == 422, response.text
    told = response.json()
    assert problem in told["problem"] and told["remedy"] and told["request_id"] == response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("begin", "unit", "end"),
    [
        (b'{"items":[', b"0", b"]}"),
        (b'{"items":[', b"{}", b"]}"),
        (b'{"question":{"stem":"x","accepted_answers":[', b"0", b']},"text":"x"}'),
        (b'{"question":{"stem":"x","options":[', b'{"label":"","text":""}', b']},"text":"x"}'),
        (b'{"question":{"stem":"x"},"text":"x",', b'"%d":0', b"}"),
    ],
)
def test_a_body_has_few_errors_however_long_it_is(begin: bytes, unit: bytes, end: bytes) -> None:
    """pydantic would keep two errors for each element: 1.6 MB of zeros took 800 MiB."""
    count = 20_000
    body = begin + b",".join(unit.replace(b"%d", b"%d" % i) for i in range(count)) + end
    with pytest.raises(ValidationError) as refused:
        request_adapter(count).validate_json(body)
    assert refused.value.error_count() < 10


@aio
async def test_token_size_and_request_id() -> None:
    async with client(token="secret", max_body_mib=1) as http:
        assert (await http.get("/healthz")).status_code == 200
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": "Basic secret"},
            {"authorization": "secret"},
        ):
            refused = await http.post("/score", json=said("B"), headers=headers)
            assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"
        assert (await http.get("/metrics")).status_code == 401
        http.headers["authorization"] = "Bearer secret"
        fine = await http.post("/score", json=said("B"), headers={"x-request-id": "run-7.step-3"})
        assert fine.status_code == 200 and fine.headers["x-request-id"] == "run-7.step-3"
        odd = await http.post("/score", json=said("B"), headers={"x-request-id": "a b\tc"})
        assert len(odd.headers["x-request-id"]) == 32
        large = {**said("B"), "text": "x" * (1 << 20)}
        assert (await http.post("/score", json=large)).status_code == 413

        async def pieces() -> AsyncIterator[bytes]:  # without a content-length
            for _ in range(20):
                yield b" " * (1 << 16)

        assert (await http.post("/score", content=pieces())).status_code == 413
        assert (await http.post("/nowhere")).status_code == 404


@aio
async def test_overload_is_429_and_nothing_else_is_lost() -> None:
    async with client(max_pending_requests=2) as http:
        await http.post("/score", json=said("B"))  # a worker is up
        answers = await asyncio.gather(*(http.post("/score", json={"items": [said("B")] * 50}) for _ in range(12)))
        codes = [answer.status_code for answer in answers]
        assert set(codes) == {200, 429} and codes.count(200) >= 2
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert refused.headers["retry-after"] == "1" and "under way" in refused.json()["problem"]
        for answer in answers:
            if answer.status_code == 200:
                assert [r["reason"] for r in answer.json()["results"]] == ["correct"] * 50
        assert (await http.post("/score", json=said("B"))).status_code == 200
        assert 'fleming_reward_pending_items{replica="r1"} 0.0' in (await http.get("/metrics")).text


@aio
async def test_a_stalled_upload_is_408_and_gives_its_place_back() -> None:
    """Otherwise 64 clients that stop half-way would close the service for everybody else, for ever."""

    async def stalled(first: bytes) -> AsyncIterator[bytes]:
        yield first
        await asyncio.Event().wait()

    async def slow(pieces: list[bytes]) -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece
            await asyncio.sleep(0.15)

    async with client(max_pending_requests=2, receive_timeout_s=0.5) as http:
        await http.post("/score", json=said("B"))  # a worker is up
        for headers in ({"content-type": "application/json"}, {"content-type": "application/x-ndjson"}):
            asking = [asyncio.create_task(http.post("/score", content=stalled(b"{"), headers=headers)) for _ in "ab"]
            await asyncio.sleep(0.1)
            assert (await http.post("/score", json=said("B"))).status_code == 429
            if "x-ndjson" in headers["content-type"]:  # its answer has begun, so the connection breaks off
                ends = await asyncio.gather(*asking, return_exceptions=True)
                assert all(isinstance(end, Exception) for end in ends)
            else:
                answers = await asyncio.gather(*asking)
                assert [answer.status_code for answer in answers] == [408, 408]
                assert "stopped" in answers[0].json()["problem"] and answers[0].headers["connection"] == "close"
            assert (await http.post("/score", json=said("B"))).status_code == 200
        body = json.dumps(said("B")).encode()
        pieces = [body[at : at + 20] for at in range(0, len(body), 20)]
        assert len(pieces) * 0.15 > 0.5  # slow is not stalled
        assert (await http.post("/score", content=slow(pieces))).json()["reason"] == "correct"
        # Nor is an answer that takes longer.
        assert (await http.post("/score", json=said("sleep", OBEY))).json()["failure"]["kind"] == "timeout"


@aio
async def test_json_lines_come_back_in_order_with_bad_lines_marked() -> None:
    rows = [json.dumps(said("ABCD"[i % 4])) for i in range(600)]
    rows[300:300] = ["{not json", "", json.dumps(said("B", {"stem": " "}))]
    headers = {"content-type": "application/x-ndjson"}
    async with client() as http:
        response = await http.post("/score", content="\n".join(rows).encode(), headers=headers)
        assert response.status_code == 200 and response.headers["content-type"] == "application/x-ndjson"
        results = [json.loads(line) for line in response.text.splitlines()]
        assert len(results) == 602
        assert [r["failure"]["kind"] for r in results[300:302]] == ["unreadable", "unreadable"]
        reasons = [r["reason"] for r in results[:300] + results[302:]]
        assert reasons == ["correct" if i % 4 == 1 else "wrong" for i in range(600)]
        assert (await http.post("/score", content=b"", headers=headers)).text == ""


@aio
async def test_ready_says_what_is_wrong() -> None:
    async with client() as http:
        assert (await http.get("/readyz")).json() == {"status": "ready"}
    broken = create_app(ServiceConfig(), RewardConfig(user_verifiers={"mine": "no_such:f"}))
    async with client(app=broken) as http:
        refused = await http.get("/readyz")
        assert refused.status_code == 503 and "no_such" in refused.json()["problem"]
        assert (await http.post("/score", json=said("B"))).status_code == 503
        assert (await http.get("/healthz")).status_code == 200


@aio
async def test_a_probe_that_gives_up_does_not_end_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise impatient probes would end each start, and no worker would ever come up."""
    begun: list[str] = []
    may_come_up = asyncio.Event()

    async def slow_start(_: WorkerHost) -> None:
        begun.append("begun")
        try:
            await may_come_up.wait()
        except asyncio.CancelledError:
            begun.append("ended")
            raise

    monkeypatch.setattr("reward_service.http_app.READY_TIMEOUT_S", 0.01)
    monkeypatch.setattr(WorkerHost, "ready", slow_start)
    async with client() as http:
        codes = [(await http.get("/readyz")).status_code for _ in range(5)]
        assert codes == [503] * 5 and begun == ["begun"]
        may_come_up.set()
        await asyncio.sleep(0.01)
        assert (await http.get("/readyz")).status_code == 200 and begun == ["begun"]


@aio
async def test_openapi_page_is_whole() -> None:
    async with client() as http:
        page = (await http.get("/openapi.json")).json()
        assert (await http.get("/docs")).status_code == 200
    named = set(page["components"]["schemas"])

    def refs(node: object) -> Iterator[str]:
        if isinstance(node, dict):
            for key, value in node.items():
                yield from [value] if key == "$ref" else refs(value)
        elif isinstance(node, list):
            for value in node:
                yield from refs(value)

    assert {ref.removeprefix("#/components/schemas/") for ref in refs(page)} <= named
    assert {"ItemIn", "BatchIn", "ResultOut", "BatchOut", "ProblemOut"} <= named
    assert set(page["paths"]) == {"/score", "/healthz", "/readyz", "/metrics"}
