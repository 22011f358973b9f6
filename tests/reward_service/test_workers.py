"""Real worker processes around verifiers that hang, grow, exit, raise and lie: each is contained and reported."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from data.errors import ConfigError, SetupError
from data.records import Question
from reward_service.config import RewardConfig, WorkerConfig
from reward_service.worker import Failure, Outcome, ScoredItem, ScoreItem, score_item
from reward_service.workers import WorkerHost, _chunks
from tests.aio import aio
from tests.data.examples import MARFAN

OBEY = Question(
    source="t", language="en", stem="What?", options=(), answer_label="", accepted_answers=("stroke",), verifier="obey"
)


def config(**workers: Any) -> RewardConfig:
    settings = {"item_timeout_s": 1.5, "memory_mib": 128, "backoff_s": 0.01, **workers}
    return RewardConfig(
        user_verifiers={"obey": "tests.reward_service.hostile_verifiers:obey"}, workers=WorkerConfig(**settings)
    )


def item(answer: str) -> ScoreItem:
    return ScoreItem(question=OBEY, text=f"<think>x</think><answer>{answer}</answer>")


@asynccontextmanager
async def running(settings: RewardConfig) -> AsyncIterator[WorkerHost]:
    host = WorkerHost(settings)
    try:
        yield host
    finally:
        await host.aclose()


def workers_alive() -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]


def fault(outcome: Outcome) -> str:
    return outcome.kind if isinstance(outcome, Failure) else outcome.score.reason


@aio
async def test_one_fault_of_each_kind_among_honest_items() -> None:
    """The faults of the issue, in one batch: the other items' scores are exactly those of a calm day."""
    faults = {
        "sleep": "timeout",
        "spin": "timeout",
        "allocate": "memory",
        "exit": "crash",
        "kill": "crash",
        "raise": "error",
        "nan": "error",
        "nan-verdict": "error",
    }
    items: list[ScoreItem] = []
    for name in faults:
        items += [item("stroke"), item(name), item("ulcer")]
    settings = config()
    async with running(settings) as host:
        outcomes = await asyncio.wait_for(host.score(items), 90)
        assert [fault(o) for o in outcomes[1::3]] == list(faults.values())
        assert {fault(o) for o in outcomes[0::3]} == {"correct"} and {fault(o) for o in outcomes[2::3]} == {"wrong"}
        assert outcomes[0] == score_item(items[0], settings)
        deaths = sum(kind not in ("error",) for kind in faults.values())
        assert host.counters["strikes"] >= 2 * deaths and host.counters["restarts"] >= 2 * deaths
        assert host.counters["scored"] == 16 and host.counters["error"] == 3
        # Reclaimed: one worker is left, and it is small.
        (left,) = workers_alive()
        assert left.memory_info().rss < 200 << 20
        # Quarantined: what killed twice is not tried again, and costs nothing.
        begun = time.monotonic()
        again = await host.score([item("sleep"), item("stroke"), item("allocate")])
        assert [fault(o) for o in again] == ["quarantined", "correct", "quarantined"]
        assert time.monotonic() - begun < 1.5
    await asyncio.sleep(0.2)
    assert workers_alive() == []


@aio
async def test_what_a_verifier_started_dies_with_it() -> None:
    async with running(config(item_timeout_s=0.5, strikes=1)) as host:
        assert [fault(o) for o in await host.score([item("fork"), item("close 1"), item("stroke")])] == [
            "timeout",
            "crash",
            "correct",
        ]
    await asyncio.sleep(0.2)
    grandchildren = [p for p in psutil.process_iter(["cmdline"]) if "fleming-grandchild" in (p.info["cmdline"] or [])]
    assert grandchildren == []


@aio
async def test_the_limit_of_time_is_on_the_whole_verdict_and_its_size_is_bounded() -> None:
    """A verifier that reaches the pipe and writes a byte now and then is not at work; nor may it fill the host."""
    begun = time.monotonic()
    async with running(config(item_timeout_s=1.0, strikes=1)) as host:
        outcomes = await asyncio.wait_for(host.score([item("dribble"), item("flood"), item("stroke")]), 60)
        assert [fault(o) for o in outcomes] == ["timeout", "crash", "correct"]
    assert time.monotonic() - begun < 45


@aio
async def test_a_verdict_of_any_size_is_kept_to_its_bounds() -> None:
    async with running(config(memory_mib=512)) as host:
        (huge,) = await host.score([item("huge-verdict")])
    assert isinstance(huge, ScoredItem) and len(huge.score.reason) == 64 and len(huge.score.answer) == 200


@aio
async def test_noise_on_stdout_harms_nothing() -> None:
    async with running(config()) as host:
        assert [fault(o) for o in await host.score([item("print"), item("stroke")])] == ["wrong", "correct"]


@aio
async def test_a_question_that_nobody_can_judge_is_reported_at_once() -> None:
    strange = Question(
        source="t",
        language="en",
        stem="What?",
        options=(),
        answer_label="",
        accepted_answers=("x",),
        verifier="os:system",
    )
    async with running(config()) as host:
        (outcome,) = await host.score([ScoreItem(question=strange, text="<think>x</think><answer>ls</answer>")])
    assert isinstance(outcome, Failure) and outcome.kind == "unverifiable" and "unknown" in outcome.detail


@aio
async def test_large_requests_are_spread_and_come_back_in_order() -> None:
    items = [ScoreItem(question=MARFAN, text=f"<think>{i}</think><answer>{'ABCD'[i % 4]}</answer>") for i in range(500)]
    async with running(config(processes=2)) as host:
        outcomes = await host.score(items)
        assert outcomes == [score_item(each, config()) for each in items]
        assert len(workers_alive()) == 2
        streamed = [index async for index, _ in host.stream(items)]
        assert sorted(streamed) == list(range(500))


@aio
async def test_cancelled_work_leaves_the_host_usable() -> None:
    async with running(config(item_timeout_s=30.0)) as host:
        await host.ready()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(host.score([item("sleep")]), 0.5)
        (outcome,) = await asyncio.wait_for(host.score([item("stroke")]), 20)
        assert fault(outcome) == "correct"


@aio
@pytest.mark.parametrize("after_s", [0.0, 0.05])
async def test_work_cancelled_while_its_worker_starts_leaves_the_host_usable(after_s: float) -> None:
    async with running(config(item_timeout_s=30.0)) as host:
        for first in (host.score([item("stroke")]), host.ready()):
            task = asyncio.ensure_future(first)
            await asyncio.sleep(after_s)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert [fault(o) for o in await asyncio.wait_for(host.score([item("stroke")] * 2), 30)] == ["correct"] * 2
            host.close()


@aio
async def test_leaving_a_stream_early_ends_its_work() -> None:
    async with running(config(item_timeout_s=30.0)) as host:
        stream = host.stream([item("stroke"), item("sleep")])
        index, _ = await anext(stream)
        assert index == 0
        await stream.aclose()  # type: ignore[attr-defined]
        assert fault((await asyncio.wait_for(host.score([item("ulcer")]), 20))[0]) == "wrong"


@aio
async def test_settings_that_cannot_be_served_are_said_at_the_start() -> None:
    async with running(RewardConfig(user_verifiers={"mine": "no_such_module:f"})) as host:
        with pytest.raises(ConfigError, match="no_such_module"):
            await host.ready()
    async with running(config(start_timeout_s=0.001)) as host:
        with pytest.raises(SetupError, match="memory_mib"):
            await host.ready()
        with pytest.raises(SetupError):
            await host.score([item("stroke")])


@aio
async def test_a_huge_completion_is_too_long_and_its_neighbours_are_scored() -> None:
    texts = [*(f"<think>x</think><answer>{label}</answer>" for label in "ABC"), "x" * (150 << 20)]
    items = [ScoreItem(question=MARFAN, text=text) for text in (*texts, texts[1])]
    async with running(config(memory_mib=256, item_timeout_s=60.0)) as host:
        for _ in range(2):
            assert [fault(o) for o in await host.score(items)] == ["wrong", "correct", "wrong", "too_long", "correct"]
        assert host.counters == {"scored": 10, "restarts": 0}


@aio
@pytest.mark.parametrize("chunk_chars", [1 << 20, 1 << 40])
async def test_an_item_that_no_worker_can_hold_fails_alone(chunk_chars: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reward_service.workers.CHUNK_CHARS", chunk_chars)
    huge = dataclasses.replace(MARFAN, context="x" * (150 << 20))
    items = [ScoreItem(question=q, text="<think>x</think><answer>B</answer>") for q in (MARFAN, huge, MARFAN)]
    # Packing 150 MiB takes its time on a busy machine; the limit of time is not what is tested here.
    async with running(config(memory_mib=256, item_timeout_s=60.0)) as host:
        assert [fault(o) for o in await host.score(items)] == ["correct", "memory", "correct"]
        assert "strikes" not in host.counters


def test_chunks_are_bounded_in_items_and_characters() -> None:
    sizes = [1] * 130 + [600_000, 600_000, 3_000_000, 1]
    items = [ScoreItem(question=OBEY, text="x" * size) for size in sizes]
    assert [len(chunk) for chunk in _chunks(items)] == [64, 64, 3, 1, 1, 1]
    assert [index for chunk in _chunks(items) for index in chunk] == list(range(134))
    assert list(_chunks([])) == []


@aio
async def test_empty_request() -> None:
    async with running(config()) as host:
        assert await host.score([]) == []


def test_no_worker_outlives_its_parent(checkout: Path) -> None:
    """A parent that is killed takes a worker along, even one that hangs."""
    script = (
        "import asyncio, os\n"
        "from tests.reward_service.test_workers import config, item\n"
        "from reward_service.workers import WorkerHost\n"
        "async def main():\n"
        "    host = WorkerHost(config(item_timeout_s=600.0))\n"
        "    await host.ready()\n"
        "    print(host._workers[0]._process.pid, flush=True)\n"
        "    await host.score([item('spin')])\n"
        "asyncio.run(main())\n"
    )
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment)
    assert parent.stdout is not None
    worker = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    gone, _ = psutil.wait_procs([worker], timeout=10)
    assert gone == [worker]


def test_scored_items_carry_the_version_of_their_verifier() -> None:
    outcome = score_item(item("stroke"), config())
    assert isinstance(outcome, ScoredItem) and outcome.verifier_version == "obey/unversioned"
