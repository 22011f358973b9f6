"""The scorer over HTTP: POST /score for one completion, a batch, or a stream of JSON lines.

An ASGI application without Ray: `reward_service/serve_app.py` puts it on Ray Serve, tests call it in process, and
`uvicorn` could run it. One worker host per application: a hostile item costs its worker, and its caller gets a failure.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import Receive, Scope, Send

from data.errors import DataError, FlemingError
from reward_service.config import RewardConfig, ServiceConfig
from reward_service.http_guard import JSON_LINES, BodyTooLarge, Gate, Guard, Metrics
from reward_service.http_schema import (
    ITEM,
    BatchIn,
    BatchOut,
    FailureOut,
    ItemIn,
    ProblemOut,
    ResultOut,
    dump,
    parse,
    request_adapter,
    result_of,
    schemas,
)
from reward_service.worker import Outcome, ScoreItem
from reward_service.workers import WorkerHost

SLICE_LINES = 256
"""Lines of a stream that are judged at once."""
READY_TIMEOUT_S = 5.0
DESCRIPTION = "Judges medical answers: correctness and format, with a reason. A failed verification is never a 0."


class ScoreService:
    """The worker host of one application, started with the first need and shared by all requests."""

    def __init__(self, rewards: RewardConfig, gate: Gate) -> None:
        self._host = WorkerHost(rewards)
        self._gate = gate
        self._is_ready = False
        self._warming: asyncio.Task[None] | None = None
        self.problem = ""

    async def is_ready(self) -> bool:
        """True when a worker is up; ``problem`` says why not. Whoever gives up waiting does not end the start."""
        if not self._is_ready:
            if self._warming is None or self._warming.done():
                self._warming = asyncio.create_task(self._warm())
            await asyncio.shield(self._warming)
        return self._is_ready

    async def _warm(self) -> None:
        try:
            await self._host.ready()
            self._is_ready = True
            self.problem = ""
        except FlemingError as error:
            self.problem = str(error)

    async def score(self, items: list[ScoreItem]) -> list[Outcome]:
        self._gate.add(len(items))
        try:
            outcomes = await self._host.score(items)
        finally:
            self._gate.add(-len(items))
        for outcome in outcomes:
            self._gate.metrics.outcome(outcome)
        return outcomes

    async def close(self) -> None:
        if self._warming is not None:
            self._warming.cancel()
        await self._host.aclose()


def create_app(
    service: ServiceConfig,
    rewards: RewardConfig,
    *,
    token: str = "",
    replica: str = "local",
    marks_requests: bool = True,
) -> FastAPI:
    """The application. ``token`` empty means no authentication: for loopback only, which the caller sees to."""
    gate = Gate(settings=service, metrics=Metrics(replica))
    scorer = ScoreService(rewards, gate)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        warming = asyncio.create_task(scorer.is_ready())
        yield
        warming.cancel()
        await scorer.close()

    app = FastAPI(title="Fleming rewards", description=DESCRIPTION, version="1", lifespan=lifespan, redoc_url=None)
    app.add_middleware(Guard, settings=service, token=token, gate=gate, marks_requests=marks_requests)
    _add_score(app, scorer, service)
    _add_probes(app, scorer, gate)
    return app


def _add_score(app: FastAPI, scorer: ScoreService, service: ServiceConfig) -> None:
    request_schema, components = schemas(service.max_items)
    one_or_many = {"anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in ("ResultOut", "BatchOut")]}
    problem = {"application/json": {"schema": {"$ref": "#/components/schemas/ProblemOut"}}}
    responses: dict[int | str, dict[str, Any]] = {
        200: {"description": "scores or failures, in order", "content": {"application/json": {"schema": one_or_many}}},
        **{
            code: {"description": what, "content": problem}
            for code, what in (
                (401, "no or wrong token"),
                (408, "stalled"),
                (413, "too large"),
                (422, "no such form"),
                (429, "overload"),
            )
        },
    }
    body = {"application/json": {"schema": request_schema}, JSON_LINES: {"schema": {"type": "string"}}}

    @app.post(
        "/score",
        summary="Judge one completion, a batch, or JSON lines of single ones",
        responses=responses,
        openapi_extra={"requestBody": {"required": True, "content": body}},
    )
    async def score(request: Request) -> Response:
        if request.headers.get("content-type", "").split(";")[0].strip().lower() == JSON_LINES:
            return _Stream(_judge_lines(request, scorer, service), media_type=JSON_LINES)
        return await _judge_json(request, scorer, service)

    default_openapi = app.openapi

    def openapi() -> dict[str, Any]:
        page = default_openapi()
        page.setdefault("components", {}).setdefault("schemas", {}).update(components)
        return page

    app.openapi = openapi  # type: ignore[method-assign]


def _add_probes(app: FastAPI, scorer: ScoreService, gate: Gate) -> None:
    @app.get("/healthz", summary="The process lives")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", summary="A worker is up", responses={503: {"description": "not yet, or never: see the body"}})
    async def readyz() -> Response:
        try:
            ready = await asyncio.wait_for(scorer.is_ready(), READY_TIMEOUT_S)
        except TimeoutError:
            ready = False
        if ready:
            return JSONResponse({"status": "ready"})
        said = ProblemOut(
            problem=scorer.problem or "no worker is up yet", remedy="wait, or mend what the problem names"
        )
        return Response(dump(said), 503, media_type="application/json")

    @app.get("/metrics", summary="Prometheus metrics of this replica")
    async def metrics() -> Response:
        return Response(generate_latest(gate.metrics.registry), media_type=CONTENT_TYPE_LATEST)


class _Stream(StreamingResponse):
    """Answers while the request is still being read: nobody else may take its messages, to see a disconnect or not."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.stream_response(send)


async def _judge_json(request: Request, scorer: ScoreService, service: ServiceConfig) -> Response:
    try:
        said: ItemIn | BatchIn = parse(request_adapter(service.max_items), await request.body())
        given = said.items if isinstance(said, BatchIn) else [said]
        items = [_item(each, f"items.{index}") for index, each in enumerate(given)]
    except DataError as error:
        return _problem(request, 422, error)
    try:
        outcomes = await scorer.score(items)
    except FlemingError as error:  # no worker comes up, or the settings cannot be served
        return _problem(request, 503, error)
    results = [result_of(outcome) for outcome in outcomes]
    answer = BatchOut(results=results) if isinstance(said, BatchIn) else results[0]
    return Response(dump(answer), media_type="application/json")


def _item(given: ItemIn, where: str) -> ScoreItem:
    try:
        return given.item()
    except DataError as error:
        raise DataError(f"{where}: {error.problem}", remedy=error.remedy) from None


def _problem(request: Request, status: int, error: FlemingError) -> Response:
    said = ProblemOut(problem=error.problem, remedy=error.remedy, request_id=request.state.request_id)
    return Response(dump(said), status, media_type="application/json")


async def _judge_lines(request: Request, scorer: ScoreService, service: ServiceConfig) -> AsyncIterator[bytes]:
    """One result line per line, in order; a line that is no item gets a failure of kind "unreadable"."""
    kept: list[bytes] = []
    async for line in _lines(request, service.max_body_mib << 20):
        kept.append(line)
        if len(kept) == SLICE_LINES:
            yield await _judge_slice(kept, scorer)
            kept = []
    if kept:
        yield await _judge_slice(kept, scorer)


async def _judge_slice(lines: list[bytes], scorer: ScoreService) -> bytes:
    results: list[ResultOut | None] = []
    items: list[ScoreItem] = []
    for line in lines:
        try:
            items.append(parse(ITEM, line).item())
            results.append(None)
        except DataError as error:
            results.append(ResultOut(failure=FailureOut(kind="unreadable", detail=error.problem, attempts=0)))
    judged = iter([result_of(outcome) for outcome in await scorer.score(items)])
    return b"".join(dump(result or next(judged)) + b"\n" for result in results)


async def _lines(request: Request, longest: int) -> AsyncIterator[bytes]:
    """The filled lines of a body as it comes in. A line longer than ``longest`` bytes ends the request."""
    rest = bytearray()
    async for piece in request.stream():
        rest += piece
        if b"\n" not in piece and len(rest) > longest:
            raise BodyTooLarge
        *whole, tail = rest.split(b"\n")
        rest = bytearray(tail)
        for line in whole:
            if line.strip():
                yield bytes(line)
    if rest.strip():
        yield bytes(rest)
