"""Seeds, dispatch, limits and time-outs of the pool, with actors that answer at once or never."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.config import RolloutConfig
from actors.pool import RolloutPool, sample_seed
from data.errors import DataError, EngineError
from data.records import Completion, Group, Option, Question, VersionSpan
from data.wire import EngineStats, Sampler, SampleRequest, SamplingSpec, WeightUpdate

QUESTION = Question(
    source="test",
    language="en",
    stem="Which?",
    options=(Option(label="A", text="one"), Option(label="B", text="two")),
    answer_label="A",
)
SAMPLING = SamplingSpec(temperature=1.0, max_tokens=10)
CONFIG = RolloutConfig(max_prompt_tokens=4, request_timeout_s=0.2)
UPDATE = WeightUpdate(version=3, buckets=())


class FakeActor:
    """Answers each request with one token; holds requests back while ``gate`` is closed."""

    def __init__(self, name: str, *, error: Exception | None = None) -> None:
        self.name = name
        self.error = error
        self.gate = asyncio.Event()
        self.gate.set()
        self.requests: list[SampleRequest] = []
        self.cancelled = 0
        self.version = 0
        self.closed = False

    async def start(self) -> EngineStats:
        if self.error:
            raise self.error
        return await self.stats()

    async def sample(self, request: SampleRequest) -> Completion:
        self.requests.append(request)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error and request.sample_index == 1:
            raise self.error
        return Completion(
            question_id=request.question_id,
            draw=request.draw,
            sample_index=request.sample_index,
            seed=request.seed,
            prompt_token_ids=request.prompt_token_ids,
            token_ids=(1,),
            logprobs=(-0.5,),
            version_spans=(VersionSpan(start=0, end=1, version=self.version),),
            finish_reason="stop",
            text="x",
        )

    async def apply_update(self, update: WeightUpdate) -> float:
        if self.error:
            raise self.error
        self.version = update.version
        return 0.5

    async def stats(self) -> EngineStats:
        return EngineStats(
            actor=self.name,
            version=self.version,
            running_requests=0,
            outstanding_tokens=0,
            generated_tokens=0,
            busy_seconds=0.0,
        )

    async def close(self) -> None:
        self.closed = True


def pool_of(*actors: FakeActor, encode: Callable[[Question], tuple[int, ...]] = lambda q: (1, 2, 3)) -> RolloutPool:
    return RolloutPool(actors, encode, 7, CONFIG)


@given(st.integers(0, 2**40), st.text(max_size=16), st.integers(0, 10**6), st.integers(0, 10**4))
def test_a_seed_is_63_bits_and_depends_on_each_part(run: int, question: str, draw: int, index: int) -> None:
    seed = sample_seed(run, question, draw, index)
    assert 0 <= seed < 2**63
    assert seed == sample_seed(run, question, draw, index)
    others = [
        sample_seed(run + 1, question, draw, index),
        sample_seed(run, question + "1", draw, index),
        sample_seed(run, question, draw + 1, index),
        sample_seed(run, question, draw, index + 1),
    ]
    assert seed not in others


def test_a_seed_is_the_same_on_every_machine() -> None:
    assert sample_seed(7, "00f1", 3, 2) == 3915637095788499690


def test_a_group_is_k_requests_on_one_actor_with_their_own_seeds() -> None:
    async def scenario() -> None:
        actors = [FakeActor("a"), FakeActor("b")]
        pool = pool_of(*actors)
        assert isinstance(pool, Sampler)
        group = await pool.sample_group(QUESTION, draw=4, k=3, sampling=SAMPLING)
        assert [c.sample_index for c in group.completions] == [0, 1, 2]
        assert [c.seed for c in group.completions] == [sample_seed(7, QUESTION.id, 4, i) for i in range(3)]
        assert (len(actors[0].requests), len(actors[1].requests)) == (3, 0)
        assert group.draw == 4 and {r.prompt_token_ids for r in actors[0].requests} == {(1, 2, 3)}

    asyncio.run(scenario())


def test_groups_go_to_the_actor_with_the_fewest_outstanding_tokens() -> None:
    async def scenario() -> None:
        slow, fast = FakeActor("slow"), FakeActor("fast")
        slow.gate.clear()
        pool = pool_of(slow, fast)
        first = asyncio.ensure_future(pool.sample_group(QUESTION, draw=0, k=8, sampling=SAMPLING))
        await asyncio.sleep(0)
        for draw in range(1, 5):
            await pool.sample_group(QUESTION, draw=draw, k=2, sampling=SAMPLING)
        assert (len(slow.requests), len(fast.requests)) == (8, 8)
        slow.gate.set()
        await first
        assert pool._outstanding == [0, 0]

    asyncio.run(scenario())


def test_tokens_count_and_not_requests() -> None:
    """Two requests of 1,000 tokens weigh more than twenty of 10; a long prompt weighs too."""

    async def scenario() -> None:
        few_long, many_short = FakeActor("few long"), FakeActor("many short")
        for actor in (few_long, many_short):
            actor.gate.clear()
        pool = pool_of(few_long, many_short)

        def start(draw: int, k: int, max_tokens: int) -> asyncio.Future[Group]:
            sampling = SamplingSpec(temperature=1.0, max_tokens=max_tokens)
            return asyncio.ensure_future(pool.sample_group(QUESTION, draw=draw, k=k, sampling=sampling))

        groups = [start(0, 2, 1000), start(1, 20, 10), start(2, 1, 10)]
        await asyncio.sleep(0.01)
        assert (len(few_long.requests), len(many_short.requests)) == (2, 21)
        assert pool._outstanding == [2 * (3 + 1000), 21 * (3 + 10)]
        for actor in (few_long, many_short):
            actor.gate.set()
        await asyncio.gather(*groups)
        assert pool._outstanding == [0, 0]

    asyncio.run(scenario())


def test_groups_drawn_at_the_same_moment_are_spread() -> None:
    async def scenario() -> None:
        actors = [FakeActor(name) for name in "abc"]
        pool = pool_of(*actors)
        await asyncio.gather(*(pool.sample_group(QUESTION, draw=d, k=2, sampling=SAMPLING) for d in range(6)))
        assert [len(actor.requests) for actor in actors] == [4, 4, 4]

    asyncio.run(scenario())


def test_a_prompt_that_is_too_long_names_the_question() -> None:
    async def scenario() -> None:
        actor = FakeActor("a")
        with pytest.raises(DataError, match=f"{QUESTION.id}.*5 tokens.*max_prompt_tokens is 4"):
            await pool_of(actor, encode=lambda q: (1,) * 5).sample_group(QUESTION, draw=0, k=2, sampling=SAMPLING)
        assert not actor.requests

    asyncio.run(scenario())


def test_a_request_that_hangs_times_out_and_frees_the_actor() -> None:
    async def scenario() -> None:
        actor = FakeActor("stuck")
        actor.gate.clear()
        pool = pool_of(actor)
        with pytest.raises(EngineError, match=r"stuck gave no completion .* within 0.2 s"):
            await pool.sample_group(QUESTION, draw=0, k=3, sampling=SAMPLING)
        assert actor.cancelled == 3
        assert pool._outstanding == [0]

    asyncio.run(scenario())


def test_one_failed_sample_fails_the_group_and_cancels_the_rest() -> None:
    async def scenario() -> None:
        actor = FakeActor("a", error=EngineError("engine died", remedy="resume"))
        pool = pool_of(actor)
        with pytest.raises(EngineError, match="engine died"):
            await pool.sample_group(QUESTION, draw=0, k=3, sampling=SAMPLING)
        assert pool._outstanding == [0]

    asyncio.run(scenario())


def test_cancelling_a_group_cancels_its_requests() -> None:
    async def scenario() -> None:
        actor = FakeActor("a")
        actor.gate.clear()
        pool = pool_of(actor)
        task = asyncio.ensure_future(pool.sample_group(QUESTION, draw=0, k=2, sampling=SAMPLING))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert actor.cancelled == 2 and pool._outstanding == [0]

    asyncio.run(scenario())


def test_publish_reaches_every_actor_and_raises_the_first_error_after_all_are_done() -> None:
    async def scenario() -> None:
        good = [FakeActor("a"), FakeActor("b")]
        assert await pool_of(*good).publish(UPDATE) == 0.5
        bad, last = FakeActor("bad", error=EngineError("no room", remedy="x")), FakeActor("c")
        with pytest.raises(EngineError, match="no room"):
            await pool_of(bad, last).publish(UPDATE)
        assert [a.version for a in (*good, last)] == [3, 3, 3]

    asyncio.run(scenario())


def test_an_engine_that_does_not_start_closes_the_others() -> None:
    async def scenario() -> None:
        good, bad = FakeActor("a"), FakeActor("bad", error=EngineError("no memory", remedy="x"))
        with pytest.raises(EngineError, match="no memory"):
            await pool_of(good, bad).start()
        assert good.closed and bad.closed

    asyncio.run(scenario())


def test_a_pool_needs_an_actor() -> None:
    with pytest.raises(EngineError, match="no actor"):
        RolloutPool((), lambda q: (1,), 0, CONFIG)
