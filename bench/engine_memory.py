"""Does an engine's memory level off? Rounds of sampling and weight updates on one engine with a tiny model.

    python bench/engine_memory.py                 160 rounds of 64 seeded requests, a weight update after each

Prints the anonymous memory of vLLM's process every eighth of the rounds. Needs an otherwise idle machine for the time.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil

from actors.config import RolloutConfig
from actors.engine import RolloutEngine
from cluster.memory import read_status, role_of
from data.wire import SampleRequest, SamplingSpec
from tests.tiny_model import build_model, save_model, update_of

GROUPS, GROUP = 16, 4
SAMPLING = SamplingSpec(temperature=1.0, max_tokens=24)


def requests(rng: random.Random) -> list[SampleRequest]:
    """One round: prompts of 20 to 90 tokens, four completions each."""
    found = []
    for _ in range(GROUPS):
        prompt = tuple(rng.randrange(5, 250) for _ in range(rng.randint(20, 90)))
        for index in range(GROUP):
            seed = rng.randrange(2**31)
            found.append(
                SampleRequest(
                    question_id="q",
                    draw=0,
                    sample_index=index,
                    seed=seed,
                    prompt_token_ids=prompt,
                    sampling=SAMPLING,
                )
            )
    return found


async def probe(model_dir: str, rounds: int) -> None:
    config = RolloutConfig(kv_cache_gib=0.0625, cpu_threads=1, max_concurrent_requests=GROUPS * GROUP)
    engine = RolloutEngine(config, model_dir, seed=0, max_model_len=120)
    await engine.start()
    children = psutil.Process().children(recursive=True)
    (pid,) = (child.pid for child in children if role_of(" ".join(child.cmdline())) == "engine")
    model, rng, begun = build_model(1), random.Random(0), time.perf_counter()

    async def fetch(bucket: Any) -> Any:
        return bucket.ref

    for done in range(rounds + 1):
        if done % max(1, rounds // 8) == 0:
            print(f"{done:>5} rounds {read_status(pid)['RssAnon'] / 2**20:>8.0f} MiB", flush=True)
        await asyncio.gather(*(engine.generate(request) for request in requests(rng)))
        await engine.apply_update(update_of(model, done + 1), fetch)
    print(f"{(time.perf_counter() - begun) / (rounds + 1) * 1000:.0f} ms a round")
    await engine.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=160)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        save_model(build_model(0), Path(folder))
        asyncio.run(probe(folder, arguments.rounds))


if __name__ == "__main__":
    main()
