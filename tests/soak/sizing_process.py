"""The real memory of one learner rank or one engine under a recipe, for `test_sizing.py`: run it, print JSON.

    python -m tests.soak.sizing_process rank|engine MODEL_DIR RECIPE [KEY=VALUE ...]

``peak_mib`` is the kernel's high-water mark after the work; ``baseline_mib`` that of the same process with next to no
model: what the libraries take.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil

from cluster.config import Recipe, load_recipe
from cluster.memory import read_status, role_of
from cluster.sizing import micro_batch_tokens
from data.wire import SampleRequest, SamplingSpec, TrainSequence, TrainShard, WeightBucket

STEPS = 3


def full_micro_batch(recipe: Recipe) -> tuple[TrainSequence, ...]:
    """Sequences of full length with prompts of their own, as many as the largest micro-batch takes."""
    prompt, completion = recipe.rollouts.max_prompt_tokens, recipe.rollouts.max_completion_tokens
    rng = random.Random(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(5, 250) for _ in range(count))

    return tuple(
        TrainSequence(
            prompt_token_ids=ids(prompt),
            token_ids=ids(completion),
            sampled_logprobs=(-5.0,) * completion,
            advantage=1.0 if index % 2 else -1.0,
            coefficient=0.01,
        )
        for index in range(micro_batch_tokens(recipe) // (prompt + completion))
    )


def rank_peak(model_dir: str, recipe: Recipe) -> float:
    """The high-water mark of a ZeRO-3 group of one rank after some GRPO steps on full micro-batches, MiB."""
    from learner.process import prepare_process

    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    prepare_process(recipe.learner)
    import torch.distributed as dist

    from learner.grpo_loop import Stopwatch, train_on
    from learner.policy import ZeroPolicy
    from tests.tiny_model import published

    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        policy = ZeroPolicy(model_dir, recipe.learner, recipe.grpo.optimizer, total_optimizer_steps=STEPS)
        shard = TrainShard(micro_batches=(full_micro_batch(recipe),))
        handed_out: list[Any] = []
        base = model_dir if recipe.learner.sends_adapter else ""
        for _ in range(STEPS):
            train_on(policy, shard, recipe.grpo, Stopwatch())
            # As `WeightPublisher`: the newest update lies in the store, and that of the step before is still mapped.
            newest = published(policy.module, 1, base=base, bucket_bytes=int(recipe.learner.sync_bucket_mib * 2**20))
            handed_out = [*handed_out[-1:], newest]
    return read_status(os.getpid())["VmHWM"] / 2**20


async def worker_peak(model_dir: str, recipe: Recipe) -> float:
    """The high-water mark of vLLM's worker, MiB, after some weight updates, each behind as many full requests as it
    decodes at once."""
    import torch
    from transformers import AutoModelForCausalLM

    from actors.engine import RolloutEngine
    from tests.tiny_model import learnt_adapter, published

    rollouts = recipe.rollouts
    engine = RolloutEngine(rollouts, model_dir, seed=0, max_model_len=recipe.max_model_tokens)
    await engine.start()
    sampling = SamplingSpec(temperature=1.0, max_tokens=rollouts.max_completion_tokens)
    requests = [
        SampleRequest(
            question_id="q",
            draw=0,
            sample_index=index,
            seed=index,
            prompt_token_ids=tuple(5 + (index + place) % 200 for place in range(rollouts.max_prompt_tokens)),
            sampling=sampling,
        )
        for index in range(rollouts.max_concurrent_requests)
    ]
    learnt, base = AutoModelForCausalLM.from_pretrained(model_dir, dtype=getattr(torch, rollouts.dtype)), ""
    if recipe.learner.lora is not None:
        learnt = learnt_adapter(learnt, recipe.learner.lora, seed=0)
        base = model_dir if recipe.learner.sends_adapter else ""

    async def fetch(bucket: WeightBucket) -> np.ndarray:
        return cast(np.ndarray, bucket.ref)

    for version in range(1, STEPS + 1):
        await asyncio.gather(*(engine.generate(request) for request in requests))
        await engine.apply_update(published(learnt, version, base=base, bucket_bytes=256 << 20), fetch)
    children = psutil.Process().children(recursive=True)
    peaks = [read_status(child.pid)["VmHWM"] for child in children if role_of(" ".join(child.cmdline())) == "engine"]
    await engine.shutdown()
    return max(peaks) / 2**20


def measure(what: str, model_dir: str, recipe: Recipe) -> float:
    """Peak of a rank or an engine; each call in a process of its own, since a high-water mark never falls."""
    return asyncio.run(worker_peak(model_dir, recipe)) if what == "engine" else rank_peak(model_dir, recipe)


def smallest(recipe: Recipe) -> Recipe:
    """The same recipe with next to no tokens and cache."""
    rollouts = {"kv_cache_gib": 0.01, "max_concurrent_requests": 1, "max_prompt_tokens": 8, "max_completion_tokens": 4}
    learner = {"max_tokens_per_micro_batch": 16}
    return recipe.model_copy(
        update={
            "rollouts": recipe.rollouts.model_copy(update=rollouts),
            "learner": recipe.learner.model_copy(update=learner),
        }
    )


def main(what: str, model_dir: str, recipe: Recipe) -> dict[str, float]:
    from tests.tiny_model import build_model, save_model

    with tempfile.TemporaryDirectory() as folder:
        save_model(build_model(0), Path(folder))
        jobs = ((what, folder, smallest(recipe)), (what, model_dir, recipe))
        with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
            baseline, peak = [pool.submit(measure, *job).result() for job in jobs]
    return {"baseline_mib": baseline, "peak_mib": peak}


if __name__ == "__main__":
    kind, model, path, *overrides = sys.argv[1:]
    sys.stdout.write("\n" + json.dumps(main(kind, model, load_recipe(path, overrides))) + "\n")
