"""Settings of the rewards."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Self

from pydantic import Field, model_validator

from data.strict import StrictModel


class JudgeConfig(StrictModel):
    """An LLM judge behind any OpenAI-compatible endpoint, for free text whose synonyms cannot all be listed."""

    url: Annotated[str, Field(min_length=1, description="base URL of the endpoint, up to and with /v1")]
    model: Annotated[str, Field(min_length=1, description="model name that the endpoint knows")]
    api_key_env: Annotated[str, Field(description="environment variable that holds the key; empty: no key")] = ""
    votes: Annotated[int, Field(ge=1, le=15, description="judgements per answer; the majority counts; odd")] = 3
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7
    seed: Annotated[int, Field(ge=0, description="vote i asks with seed + i")] = 0
    timeout_s: Annotated[float, Field(gt=0, description="seconds per request")] = 20.0
    max_answer_chars: Annotated[int, Field(ge=1, description="a longer answer is refused unread")] = 400
    cache_dir: Annotated[str, Field(description="folder that keeps votes between runs; empty: memory only")] = ""

    @model_validator(mode="after")
    def _odd(self) -> Self:
        if self.votes % 2 == 0:
            raise ValueError("votes must be odd, or a majority may not exist")
        return self


class WorkerConfig(StrictModel):
    """The processes in which verifiers run. Each can be killed, and is, when an item breaks a bound."""

    processes: Annotated[int, Field(ge=1, description="worker processes per reward actor or HTTP replica")] = 1
    item_timeout_s: Annotated[
        float, Field(gt=0, description="seconds one completion may take before its worker is killed")
    ] = 10.0
    start_timeout_s: Annotated[float, Field(gt=0, description="seconds a new worker may take to come up")] = 60.0
    memory_mib: Annotated[int, Field(ge=64, description="address space of a worker, MiB")] = 1024
    strikes: Annotated[int, Field(ge=1, description="times an input may kill its worker before it is quarantined")] = 2
    backoff_s: Annotated[float, Field(ge=0, description="pause before a restart, doubled for each one in a row")] = 0.05
    max_backoff_s: Annotated[float, Field(ge=0, description="longest such pause")] = 5.0


class RewardConfig(StrictModel):
    """Two parts only, as in the paper: correctness of the answer and adherence to the format. Nothing about length."""

    correct_weight: Annotated[float, Field(gt=0, description="reward of a right answer in the strict format")] = 1.0
    format_weight: Annotated[float, Field(ge=0, description="reward of the strict format alone")] = 0.1
    actors: Annotated[int, Field(ge=1, description="reward actors in the pool; the fewest, when it may grow")] = 1
    max_actors: Annotated[int, Field(ge=0, description="most reward actors under load; 0: as many as actors")] = 0
    idle_s: Annotated[
        float, Field(gt=0, description="seconds without work after which an extra actor is given back")
    ] = 30.0
    cpus_per_actor: Annotated[float, Field(ge=0, description="Ray CPUs reserved per reward actor")] = 0.0
    node_group: Annotated[
        str, Field(description="custom Ray resource that marks the nodes for reward actors; empty = any node")
    ] = ""
    max_text_chars: Annotated[int, Field(ge=1, description="a longer completion is malformed by definition")] = 200_000
    timeout_s: Annotated[
        float, Field(gt=0, description="seconds a group may take to score before it is retried on another actor")
    ] = 60.0
    number_tolerance: Annotated[
        float | None,
        Field(
            ge=0,
            lt=1,
            description="relative tolerance of a numeric answer whose truth states none; null: the precision with "
            "which the truth is written",
        ),
    ] = None
    verifier_by_source: Annotated[
        dict[str, str], Field(description="verifier for all questions of a source, whatever they name themselves")
    ] = Field(default_factory=dict)
    user_verifiers: Annotated[
        dict[str, str], Field(description="name -> module:function, or the name of an entry point in fleming.verifiers")
    ] = Field(default_factory=dict)
    judge: JudgeConfig | None = None
    workers: WorkerConfig = WorkerConfig()

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if 0 < self.max_actors < self.actors:
            raise ValueError(f"max_actors = {self.max_actors} is below actors = {self.actors}")
        return self

    @cached_property
    def fingerprint(self) -> str:
        """The settings as JSON: the key under which verifiers are kept, and how worker processes get them."""
        return self.model_dump_json()

    @property
    def item_timeout_s(self) -> float:
        """Seconds one completion may take: long enough for every vote of a slow judge, which is no hanging verifier."""
        votes = self.judge.votes * self.judge.timeout_s if self.judge else 0.0
        return max(self.workers.item_timeout_s, 1.1 * votes)

    @property
    def most_actors(self) -> int:
        """The upper bound of the pool."""
        return self.max_actors or self.actors


class ServiceConfig(StrictModel):
    """The HTTP service (`fleming serve rewards`). Bounds are per replica."""

    host: Annotated[
        str, Field(min_length=1, description="address to listen on; anything but loopback needs a token")
    ] = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8700
    token_env: Annotated[str, Field(description="environment variable that holds the bearer token")] = (
        "FLEMING_REWARD_TOKEN"
    )
    max_body_mib: Annotated[int, Field(ge=1, description="largest JSON request, MiB")] = 16
    max_items: Annotated[int, Field(ge=1, description="most items of one JSON request")] = 4096
    max_stream_mib: Annotated[int, Field(ge=1, description="largest request of JSON lines, MiB")] = 1024
    receive_timeout_s: Annotated[
        float, Field(gt=0, description="seconds without a byte of a request's body after which it is answered 408")
    ] = 30.0
    max_pending_items: Annotated[
        int, Field(ge=1, description="items under way beyond which requests are answered 429")
    ] = 8192
    max_pending_requests: Annotated[
        int, Field(ge=1, description="requests under way beyond which more are answered 429")
    ] = 64
    min_replicas: Annotated[int, Field(ge=1)] = 1
    max_replicas: Annotated[int, Field(ge=1)] = 1
    cpus_per_replica: Annotated[float, Field(ge=0, description="Ray CPUs reserved per replica")] = 1.0

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas = {self.max_replicas} is below min_replicas = {self.min_replicas}")
        return self

    @property
    def is_loopback(self) -> bool:
        """True when nobody but this machine can reach it."""
        return self.host in ("127.0.0.1", "::1", "localhost")
