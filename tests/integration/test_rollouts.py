"""A real vLLM engine against plain transformers: the same log-probabilities before, across and after weight updates."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
import pytest
import ray
from transformers import Qwen2ForCausalLM

import actors.engine
from actors.config import RolloutConfig
from actors.engine import RolloutEngine
from actors.pool import RolloutPool, sample_seed
from actors.rollout_actor import create_rollout_actors
from data.errors import EngineError
from data.records import Completion, Option, Question
from data.wire import SampleRequest, SamplingSpec, WeightBucket, WeightUpdate
from learner.config import LoraConfig
from tests.tiny_model import (
    END,
    EOS,
    build_model,
    gap,
    learnt_adapter,
    merged_model,
    published,
    reference_logprobs,
    save_model,
    update_of,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(420)]

T = TypeVar("T")
SAME, OTHER = 1e-3, 1e-2  # mean absolute gap: of equal weights below SAME, of other weights above OTHER
CONFIG = RolloutConfig(kv_cache_gib=0.1, cpu_threads=1, start_timeout_s=300, max_prompt_tokens=512)
LONG_PROMPT = tuple(range(20, 240)) + tuple(range(10, 130))  # more than two blocks of the prefix cache


@dataclass
class Rig:
    """One engine for the whole file, with the two sets of weights that it is switched between."""

    engine: RolloutEngine
    models: tuple[Qwen2ForCausalLM, Qwen2ForCausalLM]
    run: Callable[[Awaitable[Any]], Any]
    version: int = 0

    def sample(self, count: int, prompt: tuple[int, ...] = (5, 6, 7, 8), **sampling: Any) -> list[Completion]:
        completions: list[Completion] = self.run(self._gather([request(i, prompt, **sampling) for i in range(count)]))
        return completions

    async def _gather(self, requests: list[SampleRequest]) -> list[Completion]:
        return list(await asyncio.gather(*(self.engine.generate(r) for r in requests)))

    def publish(self, which: int, leave_out: str = "") -> float:
        self.version += 1
        return self.apply(update_of(self.models[which], self.version, leave_out=leave_out))

    def apply(self, update: WeightUpdate) -> float:
        seconds: float = self.run(self.engine.apply_update(update, fetch))
        return seconds


def request(index: int, prompt: tuple[int, ...], temperature: float = 1.0, max_tokens: int = 40) -> SampleRequest:
    return SampleRequest(
        question_id="q",
        draw=0,
        sample_index=index,
        seed=sample_seed(7, "q", 0, index),
        prompt_token_ids=prompt,
        sampling=SamplingSpec(temperature=temperature, max_tokens=max_tokens),
    )


async def fetch(bucket: WeightBucket) -> np.ndarray:
    data = bucket.ref
    assert isinstance(data, np.ndarray)
    return data


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(build_model(0), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def rig(model_dir: str) -> Iterator[Rig]:
    with asyncio.Runner() as runner:

        def run(awaitable: Awaitable[T]) -> T:
            async def wrapped() -> T:
                return await awaitable

            return runner.run(wrapped())

        engine = RolloutEngine(CONFIG, model_dir, seed=0, max_model_len=900)
        run(engine.start())
        yield Rig(engine=engine, models=(build_model(0), build_model(1)), run=run)
        run(engine.shutdown())


def test_logprobs_are_those_of_the_weights_before_and_after_an_update(rig: Rig) -> None:
    first, second = rig.models
    before = rig.sample(8)
    assert gap(first, before) < SAME
    assert gap(first, rig.sample(8, temperature=0.7), temperature=0.7) < SAME
    rig.publish(1)
    after = rig.sample(8)
    assert gap(second, after) < SAME
    assert gap(first, after) > OTHER
    assert rig.engine.version == rig.version
    assert {span.version for c in after for span in c.version_spans} == {rig.version}


def test_a_prefix_cache_that_is_not_cleared_shows_in_the_gap(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.publish(0)
    assert gap(rig.models[0], rig.sample(2, LONG_PROMPT)) < SAME
    rig.publish(1)
    assert gap(rig.models[1], rig.sample(2, LONG_PROMPT)) < SAME

    llm = rig.engine._llm
    assert llm is not None
    pause = llm.pause_generation

    async def keep_cache(**arguments: Any) -> None:
        await pause(**{**arguments, "clear_cache": False})

    with monkeypatch.context() as patch:
        patch.setattr(llm, "pause_generation", keep_cache)
        rig.publish(0)
    assert gap(rig.models[0], rig.sample(2, LONG_PROMPT)) > SAME
    rig.publish(0)
    assert gap(rig.models[0], rig.sample(2, LONG_PROMPT)) < SAME


def test_a_tensor_that_is_not_sent_is_refused_and_would_show_in_the_gap(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = "model.layers.1.mlp.down_proj.weight"
    rig.publish(0)
    with pytest.raises(EngineError, match=missing):
        rig.publish(1, leave_out=missing)
    assert gap(rig.models[0], rig.sample(4)) < SAME  # a refused update changes nothing

    with monkeypatch.context() as patch:
        patch.setattr(actors.engine, "check_update", lambda update, model: None)
        rig.publish(1, leave_out=missing)
    assert gap(rig.models[1], rig.sample(4)) > SAME
    rig.publish(1)
    assert gap(rig.models[1], rig.sample(4)) < SAME


def swap_in_flight(rig: Rig, update: WeightUpdate, *, requests: int, max_tokens: int) -> list[Completion]:
    """Load ``update`` while ``requests`` are running; the completions that have tokens of two versions."""

    async def swap() -> list[Completion]:
        started = [request(i, (9, 8, 7), max_tokens=max_tokens) for i in range(requests)]
        running = [asyncio.ensure_future(rig.engine.generate(one)) for one in started]
        # All requests advance together, so when this one is done the others have at least as many tokens.
        await rig.engine.generate(request(99, (9, 8, 7), max_tokens=8))
        rig.version = update.version
        await rig.engine.apply_update(update, fetch)
        return list(await asyncio.gather(*running))

    swapped = [c for c in rig.run(swap()) if len(c.version_spans) > 1]
    assert swapped, "no completion was in flight when the weights changed"
    return swapped


def test_a_swap_in_mid_completion_labels_each_token_with_its_weights(rig: Rig) -> None:
    rig.publish(0)
    old = rig.version

    swapped = swap_in_flight(rig, update_of(rig.models[1], old + 1), requests=12, max_tokens=800)
    same, other = [], []
    for completion in swapped:
        first, second = completion.version_spans
        assert (first.version, second.version) == (old, rig.version)
        assert completion.oldest_version == old
        by_model = [np.abs(np.array(completion.logprobs) - reference_logprobs(m, completion)) for m in rig.models]
        same += [by_model[0][: first.end], by_model[1][second.start :]]
        other += [by_model[1][: first.end], by_model[0][second.start :]]
        # The tokens on both sides of the border belong to their own weights, not only most of them.
        assert by_model[0][first.end - 1] < SAME and by_model[1][second.start] < SAME
    assert np.concatenate(same).mean() < SAME
    assert np.concatenate(other).mean() > OTHER


def test_an_adapter_is_added_to_its_base_in_the_engine(rig: Rig, model_dir: str, tmp_path: Path) -> None:
    """On the model that the engine started on, in mid-completion, and on another one, as after a warm-up."""
    lora = LoraConfig(rank=4, alpha=8.0)
    adapted = learnt_adapter(build_model(0), lora, seed=1, size=0.2)
    merged, old = merged_model(adapted), rig.models[1]
    rig.publish(1)
    before = rig.version

    swapped = swap_in_flight(rig, published(adapted, before + 1, base=model_dir), requests=8, max_tokens=600)
    for completion in swapped:
        first, second = completion.version_spans
        assert (first.version, second.version) == (before, rig.version)
        was, now = (np.abs(np.array(completion.logprobs) - reference_logprobs(m, completion)) for m in (old, merged))
        assert was[: first.end].mean() < SAME and now[second.start :].mean() < SAME
    after = rig.sample(8)
    assert gap(merged, after) < SAME
    assert gap(build_model(0), after) > OTHER and gap(old, after) > OTHER

    warmed_up = save_model(rig.models[1], tmp_path)
    again = learnt_adapter(build_model(1), lora, seed=2, size=0.2)
    rig.version += 1
    rig.apply(published(again, rig.version, base=warmed_up))
    assert gap(merged_model(again), rig.sample(8)) < SAME
    rig.publish(0)


def test_one_seed_gives_the_same_tokens_and_greedy_needs_none(rig: Rig) -> None:
    once, again = rig.sample(1)[0], rig.sample(1)[0]
    assert once.token_ids == again.token_ids
    assert len({c.token_ids for c in rig.sample(6)}) == 6
    greedy = rig.sample(2, temperature=0.0)
    assert greedy[0].token_ids[:20] == greedy[1].token_ids[:20]


def test_end_tokens_are_kept_as_tokens_and_left_out_of_the_text(rig: Rig) -> None:
    completions = rig.sample(48, max_tokens=400)
    ended = [c for c in completions if c.finish_reason == "stop"]
    assert {c.token_ids[-1] for c in ended} == {EOS, END}
    assert all(not {EOS, END} & set(c.token_ids[:-1]) for c in completions)
    assert all("<eos>" not in c.text and "<end>" not in c.text for c in ended)
    assert any("<think>" in c.text for c in completions)  # other special tokens are text for the verifier
    cut = rig.sample(8, max_tokens=3)
    assert {c.finish_reason for c in cut if len(c.token_ids) == 3 and c.token_ids[-1] not in (EOS, END)} == {"length"}


def test_an_end_token_on_the_last_place_is_a_stop_and_not_a_cut(rig: Rig) -> None:
    """The same request again, with the limit where it ended, and one token before."""
    rig.publish(0)
    natural = [rig.run(rig.engine.generate(request(i, (5, 6, 7), max_tokens=400))) for i in range(6)]
    ended = next(c for c in natural if c.finish_reason == "stop" and len(c.token_ids) > 1)
    length = len(ended.token_ids)
    at_limit, before = (
        rig.run(rig.engine.generate(request(ended.sample_index, (5, 6, 7), max_tokens=limit)))
        for limit in (length, length - 1)
    )
    assert at_limit.token_ids == ended.token_ids and at_limit.finish_reason == "stop"
    assert before.token_ids == ended.token_ids[:-1] and before.finish_reason == "length"


def test_a_request_that_does_not_fit_is_refused(rig: Rig) -> None:
    with pytest.raises(EngineError, match="do not fit the engine's 900"):
        rig.sample(1, max_tokens=897)


def children_of(pid: int) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # a zombie, or gone meanwhile
            if "resource_tracker" not in " ".join(process.cmdline()):
                found.append(process)
    return found


def test_a_kv_cache_that_is_too_small_is_one_line_with_a_remedy(model_dir: str) -> None:
    before = set(children_of(os.getpid()))
    engine = RolloutEngine(CONFIG.model_copy(update={"kv_cache_gib": 0.0001}), model_dir, seed=0, max_model_len=900)
    with pytest.raises(EngineError, match=r"KV cache.*Remedy: raise rollouts.kv_cache_gib") as caught:
        asyncio.run(engine.start())
    assert "\n" not in str(caught.value)
    assert set(children_of(os.getpid())) <= before


def test_a_kv_cache_for_few_sequences_makes_them_wait_and_changes_nothing(model_dir: str) -> None:
    """1,024 tokens of cache for 64 completions of about 60: they wait, are preempted, and stay whole."""
    # Two layers x (key, value) x one head of 32 in fp32: 512 bytes a token.
    small = CONFIG.model_copy(update={"kv_cache_gib": 1024 * 512 / 2**30})
    engine = RolloutEngine(small, model_dir, seed=0, max_model_len=512)

    async def scenario() -> list[Completion]:
        await engine.start()
        try:
            requests = [request(i, (5, 6, 7), max_tokens=300) for i in range(64)]
            return list(await asyncio.gather(*(engine.generate(r) for r in requests)))
        finally:
            await engine.shutdown()

    completions = asyncio.run(scenario())
    assert all(c.finish_reason == "stop" or len(c.token_ids) == 300 for c in completions)
    assert sum(len(c.token_ids) for c in completions) > 2048
    assert gap(build_model(0), completions) < SAME


OWNER = """
import asyncio, sys, time
from actors.config import RolloutConfig
from actors.engine import RolloutEngine

async def main():
    engine = RolloutEngine(RolloutConfig(kv_cache_gib=0.1, cpu_threads=1), sys.argv[1], seed=0, max_model_len=900)
    await engine.start()
    print("up", flush=True)
    await asyncio.sleep(600)

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_no_engine_process_outlives_an_owner_killed_with_9(model_dir: str, tmp_path: Path, checkout: Path) -> None:
    script = tmp_path / "owner.py"
    script.write_text(OWNER)
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    with subprocess.Popen(
        [sys.executable, str(script), model_dir], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as owner:
        assert owner.stdout is not None and owner.stdout.readline() == b"up\n"
        family = psutil.Process(owner.pid).children(recursive=True)
        assert len(family) >= 2  # engine core and worker
        os.kill(owner.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(family, timeout=8)
    for process in alive:
        process.kill()
    assert not alive


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 << 20, log_to_driver=False)
    yield
    ray.shutdown()


def test_a_pool_of_ray_actors_samples_updates_and_reports_a_dead_actor(cluster: None, model_dir: str) -> None:
    question = Question(
        source="test",
        language="en",
        stem="Which?",
        options=(Option(label="A", text="one"), Option(label="B", text="two")),
        answer_label="A",
    )
    sampling = SamplingSpec(temperature=1.0, max_tokens=16)
    model = build_model(1)

    async def scenario() -> None:
        config = CONFIG.model_copy(update={"bind_cores": True})
        handles = create_rollout_actors(config, model_dir, seed=0, max_model_len=900)
        pool = RolloutPool(handles, lambda q: (5, 6, 7), 3, config)
        assert [s.actor for s in await pool.start()] == ["rollout-0"]
        group = await pool.sample_group(question, draw=2, k=4, sampling=sampling)
        assert [c.sample_index for c in group.completions] == [0, 1, 2, 3]
        assert gap(build_model(0), group.completions) < SAME

        plain = update_of(model, 5)
        buckets = tuple(WeightBucket(slots=b.slots, nbytes=b.nbytes, ref=ray.put(b.ref)) for b in plain.buckets)
        assert await pool.publish(WeightUpdate(version=5, buckets=buckets)) > 0
        after = await pool.sample_group(question, draw=3, k=4, sampling=sampling)
        assert gap(model, after.completions) < SAME
        assert {c.oldest_version for c in after.completions} == {5}
        with pytest.raises(EngineError, match="does not fit the model"):
            await pool.publish(WeightUpdate(version=6, buckets=buckets[:1]))
        (stats,) = await pool.stats()
        assert (stats.version, stats.running_requests) == (5, 0)
        assert stats.generated_tokens == sum(len(c.token_ids) for g in (group, after) for c in g.completions)

        pid = await handles[0].handle.__ray_call__.remote(lambda actor: os.getpid())
        family = psutil.Process(pid).children(recursive=True)
        cores = await handles[0].handle.__ray_call__.remote(lambda actor: actor._engine._claim.cores)
        (worker,) = (process for process in family if "EngineCore" in " ".join(process.cmdline()))
        assert len(cores) == 1 and worker.cpu_affinity() == list(cores)
        os.kill(pid, signal.SIGKILL)
        started = time.monotonic()
        with pytest.raises(EngineError, match="rollout-0 is gone"):
            await pool.sample_group(question, draw=4, k=1, sampling=sampling)
        _, alive = await asyncio.to_thread(psutil.wait_procs, family, 8)
        assert not alive, f"{alive} left {time.monotonic() - started:.0f} s after the kill"
        await pool.close()

    asyncio.run(scenario())
