"""What stands before every HTTP request: request id, bearer token, size limit, admission, metrics.

Plain ASGI, so that a refused request costs next to nothing and a streamed one is never held in memory.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from reward_service.config import ServiceConfig
from reward_service.http_schema import ProblemOut, dump
from reward_service.worker import Failure, Outcome

JSON_LINES = "application/x-ndjson"
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/docs", "/openapi.json"})
RETRY_AFTER_S = 1

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_GIVEN_ID = re.compile(r"[A-Za-z0-9._\-]{1,64}")
_MAX_REASONS = 100


class BodyTooLarge(Exception):
    """The body went past its limit while it was read."""


class BodyStalled(Exception):
    """The body stopped coming while it was read."""


class Metrics:
    """What Prometheus scrapes at /metrics. Each replica has its own series: the label ``replica`` tells them apart."""

    def __init__(self, replica: str) -> None:
        self.registry = CollectorRegistry()
        self._replica = replica
        kept = {"registry": self.registry}
        self._requests = Counter("fleming_reward_requests", "HTTP requests", ["replica", "path", "status"], **kept)  # type: ignore[arg-type]
        self._verdicts = Counter("fleming_reward_verdicts", "judged items", ["replica", "reason"], **kept)  # type: ignore[arg-type]
        self._failures = Counter("fleming_reward_failures", "items without verdict", ["replica", "kind"], **kept)  # type: ignore[arg-type]
        self._pending = Gauge("fleming_reward_pending_items", "items under way", ["replica"], **kept)  # type: ignore[arg-type]
        self._seconds = Histogram("fleming_reward_request_seconds", "time of /score", ["replica"], **kept)  # type: ignore[arg-type]
        self._reasons: set[str] = set()

    def request(self, path: str, status: int, seconds: float) -> None:
        known = path if path in OPEN_PATHS | {"/score", "/metrics"} else "other"
        self._requests.labels(self._replica, known, str(status)).inc()
        if path == "/score" and status == 200:
            self._seconds.labels(self._replica).observe(seconds)

    def outcome(self, outcome: Outcome) -> None:
        if isinstance(outcome, Failure):
            self._failures.labels(self._replica, outcome.kind).inc()
            return
        reason = outcome.score.reason
        if reason not in self._reasons:  # a user verifier may invent reasons without end
            reason = reason if len(self._reasons) < _MAX_REASONS else "other"
            self._reasons.add(reason)
        self._verdicts.labels(self._replica, reason).inc()

    def pending(self, items: int) -> None:
        self._pending.labels(self._replica).set(items)


@dataclass(kw_only=True)
class Gate:
    """Counts what is under way, and refuses more than there is room for."""

    settings: ServiceConfig
    metrics: Metrics
    requests: int = 0
    items: int = 0

    def has_room(self) -> bool:
        """True when another request may come in."""
        return self.requests < self.settings.max_pending_requests and self.items < self.settings.max_pending_items

    def add(self, items: int) -> None:
        self.items += items
        self.metrics.pending(self.items)


@dataclass(kw_only=True)
class _Exchange:
    """One request on its way: what has been read, and what was answered."""

    request_id: str
    limit: int
    read: int = 0
    is_whole: bool = False
    status: int = 0
    begun: float = field(default_factory=time.perf_counter)


class Guard:
    """ASGI middleware around the application. ``marks_requests``: answers carry the request id; Serve's proxy does it
    itself, and hands over the id that it gave."""

    def __init__(self, app: App, *, settings: ServiceConfig, token: str, gate: Gate, marks_requests: bool) -> None:
        self._app = app
        self._settings = settings
        self._token = token.encode()
        self._gate = gate
        self._marks_requests = marks_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        exchange = self._exchange(headers)

        async def counted_receive() -> Message:
            if exchange.is_whole:
                return await receive()  # waits for a disconnect, as long as the answer takes
            try:
                message = await asyncio.wait_for(receive(), self._settings.receive_timeout_s)
            except TimeoutError:
                raise BodyStalled from None
            exchange.is_whole = not message.get("more_body", False)
            exchange.read += len(message.get("body", b""))
            if exchange.read > exchange.limit:
                raise BodyTooLarge
            return message

        async def marked_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                if self._marks_requests:
                    message["headers"] = [*message.get("headers", []), (b"x-request-id", exchange.request_id.encode())]
            await send(message)

        scope.setdefault("state", {})["request_id"] = exchange.request_id
        is_score = scope["path"] == "/score"
        try:
            refusal = self._refusal(scope["path"], headers, exchange)
            if refusal is not None:
                await _refuse(marked_send, *refusal, exchange.request_id)
                return
            self._gate.requests += is_score
            try:
                await self._app(scope, counted_receive, marked_send)
            finally:
                self._gate.requests -= is_score
        except BodyTooLarge:
            if exchange.status:
                raise  # the answer has begun: the connection breaks off, so the client cannot take it for whole
            await _refuse(marked_send, 413, *_too_large(exchange.limit), exchange.request_id)
        except BodyStalled:
            if exchange.status:
                raise
            problem = f"the body stopped for {self._settings.receive_timeout_s:g} s"
            await _refuse(marked_send, 408, problem, "send it again, without pauses", exchange.request_id)
        finally:
            self._gate.metrics.request(scope["path"], exchange.status, time.perf_counter() - exchange.begun)

    def _exchange(self, headers: dict[bytes, bytes]) -> _Exchange:
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        is_lines = headers.get(b"content-type", b"").split(b";")[0].strip().lower() == JSON_LINES.encode()
        mib = self._settings.max_stream_mib if is_lines else self._settings.max_body_mib
        return _Exchange(request_id=given if _GIVEN_ID.fullmatch(given) else uuid.uuid4().hex, limit=mib << 20)

    def _refusal(self, path: str, headers: dict[bytes, bytes], exchange: _Exchange) -> tuple[int, str, str] | None:
        if self._token and path not in OPEN_PATHS:
            scheme, _, said = headers.get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(said.strip(), self._token):
                return 401, "the bearer token is missing or wrong", "send Authorization: Bearer TOKEN"
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length[:20]) > exchange.limit:
            return 413, *_too_large(exchange.limit)
        if path == "/score" and not self._gate.has_room():
            return 429, "the service has more under way than it can hold", f"try again after {RETRY_AFTER_S} s"
        return None


def _too_large(limit: int) -> tuple[str, str]:
    return f"the body is larger than {limit >> 20} MiB", f"send smaller requests, or JSON lines as {JSON_LINES}"


async def _refuse(send: Send, status: int, problem: str, remedy: str, request_id: str) -> None:
    body = dump(ProblemOut(problem=problem, remedy=remedy, request_id=request_id))
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 429:
        headers.append((b"retry-after", str(RETRY_AFTER_S).encode()))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status in (408, 413):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
