"""Measures the rewards: verdicts per second, growth with length, the pool's overhead, the service under overload.

    python bench/rewards.py worker            one core, no Ray: seconds
    python bench/rewards.py pool              Ray actors around worker processes
    python bench/rewards.py http --seconds 60 Ray Serve at 1, 2 and 3 times its capacity (`--times 2`: at that alone)

Each prints one line per figure and, with `--out FILE`, appends them as JSON lines. Verdicts per second and core are of
CPU seconds of the measuring process: other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import socket
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.records import Completion, Group, Option, Question, VersionSpan
from reward_service.config import RewardConfig, ServiceConfig
from reward_service.extraction import extract
from reward_service.reward import score_text
from reward_service.worker import ScoreItem, frame, score_item
from reward_service.workers import WorkerHost

WORDS = ("fever", "cough", "rash", "renal", "hepatic", "acute", "chronic", "lesion", "artery", "biopsy", "serum")


def say(figures: list[dict[str, Any]], what: str, value: float, unit: str) -> None:
    figures.append({"what": what, "value": round(value, 6), "unit": unit})
    print(f"{what:<64} {value:>14,.2f} {unit}", flush=True)


def question(index: int = 0) -> Question:
    texts = (f"Finding {index} alpha", "Cataplexy of the young", "Type A behaviour", "β-cell failure", "None of them")
    options = tuple(Option(label=label, text=text) for label, text in zip("ABCDE", texts, strict=True))
    return Question(source="bench", language="en", stem=f"Which {index}?", options=options, answer_label="B")


def completions(count: int, chars: int, seed: int = 0) -> list[str]:
    """Completions as a policy writes them: reasoning of about ``chars`` characters, answers of every form."""
    rng = random.Random(seed)
    answers = ["B", "A", "B. Cataplexy of the young", "(C)", "Cataplexy of the young", "A or B", "none", "E.", "D: x"]
    made = []
    for _ in range(count):
        reasoning = " ".join(rng.choice(WORDS) for _ in range(chars // 7))
        text = f"<think>{reasoning}</think>\n<answer>{rng.choice(answers)}</answer>"
        made.append(text if rng.random() > 0.1 else text.replace("</think>", "", 1))
    return made


def bench_worker(figures: list[dict[str, Any]]) -> None:
    config = RewardConfig(max_text_chars=10**8)
    for chars in (200, 2_000, 8_000):
        texts = completions(4_000, chars)
        questions = [question(i % 64) for i in range(len(texts))]
        best = 0.0
        for _ in range(3):
            begun = time.process_time()
            for asked, text in zip(questions, texts, strict=True):
                score_text(asked, text, config)
            best = max(best, len(texts) / (time.process_time() - begun))
        say(figures, f"multiple choice, {chars} characters of reasoning", best, "verdicts per CPU s")
    items = [ScoreItem(question=q, text=t) for q, t in zip(questions, completions(4_000, 2_000), strict=True)]
    begun = time.process_time()
    for item in items:
        frame(score_item(item, config))
    rate = len(items) / (time.process_time() - begun)
    say(figures, "the same at 2000, with the frame that a worker sends", rate, "verdicts per CPU s")
    for mib in (1, 2, 5, 10):
        text = f"<think>{'fever <answ ' * (mib * (1 << 20) // 12)}</think><answer>B</answer>"
        times = []
        for _ in range(3):
            begun = time.process_time()
            extract(text, 10**9)
            times.append(time.process_time() - begun)
        say(figures, f"extraction of {mib} MiB", 1e3 * min(times), "CPU ms")


async def bench_host(figures: list[dict[str, Any]]) -> None:
    """One worker process behind a host, without Ray: what the process boundary costs."""
    host = WorkerHost(RewardConfig())
    items = [ScoreItem(question=question(i % 64), text=t) for i, t in enumerate(completions(8_192, 2_000))]
    try:
        await host.score(items[:64])
        begun, cpu = time.perf_counter(), time.process_time()
        await host.score(items)
        wall, own = time.perf_counter() - begun, time.process_time() - cpu
    finally:
        host.close()
    say(figures, "worker host, one process, 2000 characters", len(items) / wall, "verdicts per wall s")
    say(figures, "worker host, its own work per item", 1e6 * own / len(items), "CPU us")


def group_of(index: int, texts: list[str]) -> Group:
    asked = question(index)
    made = tuple(
        Completion(
            question_id=asked.id,
            draw=0,
            sample_index=i,
            seed=i,
            prompt_token_ids=(1,) * 100,
            token_ids=(2,) * 300,
            logprobs=(-0.5,) * 300,
            version_spans=(VersionSpan(start=0, end=300, version=0),),
            finish_reason="stop",
            text=text,
        )
        for i, text in enumerate(texts)
    )
    return Group(question=asked, draw=0, completions=made)


async def bench_pool(figures: list[dict[str, Any]], actors: int) -> None:
    import ray

    from reward_service.pool import RewardPool

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    texts = completions(8 * 400, 2_000)
    groups = [group_of(i, texts[8 * i : 8 * i + 8]) for i in range(400)]
    pool = RewardPool(RewardConfig(actors=actors))
    try:
        await asyncio.gather(*(pool.score(g) for g in groups[: 4 * actors]))
        waits = []
        for each in groups[:100]:
            begun = time.perf_counter()
            await pool.score(each)
            waits.append(time.perf_counter() - begun)
        begun, cpu = time.perf_counter(), time.process_time()
        scored = [r async for r in pool.score_many(groups)]
        wall, own = time.perf_counter() - begun, time.process_time() - cpu
    finally:
        pool.close()
        ray.shutdown()
    assert len(scored) == len(groups)
    say(figures, f"pool of {actors}: a group of 8, alone, median", 1e3 * statistics.median(waits), "ms")
    say(figures, f"pool of {actors}: overhead per item, alone", 1e6 * statistics.median(waits) / 8, "us")
    say(figures, f"pool of {actors}: throughput", len(texts) / wall, "verdicts per wall s")
    say(figures, f"pool of {actors}: the driver's own work per item", 1e6 * own / len(texts), "CPU us")


async def ask_for(url: str, seconds: float, rate: float | None, clients: int, body: bytes) -> dict[str, Any]:
    """Ask for ``seconds``: as fast as ``clients`` can, or at ``rate`` per second however late the answers are."""
    import aiohttp

    codes: dict[int, int] = {}
    waits: list[float] = []
    wrong = 0
    errors: dict[str, int] = {}
    headers = {"content-type": "application/json"}

    async def once(session: Any) -> None:
        nonlocal wrong
        begun = time.perf_counter()
        try:
            async with session.post(f"{url}/score", data=body, headers=headers) as reply:
                said = await reply.json() if reply.status == 200 else {}
                wrong += reply.status == 200 and said["reason"] != "correct"
                codes[reply.status] = codes.get(reply.status, 0) + 1
                if reply.status == 200:
                    waits.append(time.perf_counter() - begun)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            errors[type(error).__name__] = errors.get(type(error).__name__, 0) + 1

    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        begun = time.perf_counter()
        sent = 0
        if rate is None:

            async def client() -> None:
                nonlocal sent
                while time.perf_counter() - begun < seconds:
                    sent += 1
                    await once(session)

            await asyncio.gather(*(client() for _ in range(clients)))
        else:
            tasks = set()
            while (now := time.perf_counter() - begun) < seconds:
                due = int(now * rate)
                for _ in range(due - sent):
                    task = asyncio.create_task(once(session))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                sent = due
                await asyncio.sleep(0.005)
            while tasks:
                await asyncio.wait(tasks)
        wall = time.perf_counter() - begun
    waits.sort()
    p99 = waits[int(0.99 * (len(waits) - 1))] if waits else 0.0
    median = statistics.median(waits) if waits else 0.0
    return {"sent": sent, "codes": codes, "wrong": wrong, "errors": errors, "wall": wall, "p50": median, "p99": p99}


def service_cpu() -> dict[str, float]:
    """CPU seconds so far of the processes of the service: Serve's proxy, the replicas, their workers."""
    import psutil

    seconds: dict[str, float] = {"proxy": 0.0, "replica": 0.0, "worker": 0.0}
    for process in psutil.Process().children(recursive=True):
        try:
            said, spent = " ".join(process.cmdline()), process.cpu_times()
        except psutil.Error:
            continue
        for name, mark in (("proxy", "ray::ProxyActor"), ("replica", "ray::ServeReplica"), ("worker", "-m reward_")):
            seconds[name] += spent.user + spent.system if mark in said else 0.0
    return seconds


def load(figures: list[dict[str, Any]], url: str, seconds: float, rate: float, name: str, body: bytes) -> None:
    """Ask at a rate for a time, and say what came of it, and what it cost whom."""
    own, before = time.process_time(), service_cpu()
    told = asyncio.run(ask_for(url, seconds, rate, 0, body))
    own, spent = time.process_time() - own, {k: v - before[k] for k, v in service_cpu().items()}
    answered = sum(told["codes"].values())
    fine = told["codes"].get(200, 0)
    refused = told["codes"].get(429, 0)
    say(figures, f"{name}: asked", told["sent"] / seconds, "requests per s")
    say(figures, f"{name}: answered 200", fine / told["wall"], "requests per s")
    say(figures, f"{name}: p50 of 200", 1e3 * told["p50"], "ms")
    say(figures, f"{name}: p99 of 200", 1e3 * told["p99"], "ms")
    say(figures, f"{name}: answered 429", refused, "requests")
    say(figures, f"{name}: other status", answered - fine - refused, "requests")
    say(figures, f"{name}: without an answer {told['errors'] or ''}".rstrip(), told["sent"] - answered, "requests")
    say(figures, f"{name}: wrong score", told["wrong"], "requests")
    for who, cost in {"load generator": own, **spent}.items():
        say(figures, f"{name}: CPU of the {who}", cost / told["wall"], "cores")


def bench_http(figures: list[dict[str, Any]], seconds: float, pending: int, times: list[int]) -> None:
    import ray
    from ray import serve

    from reward_service.serve_app import deploy

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    asked = {
        "stem": "Which?",
        "options": [{"label": label, "text": f"finding {label}"} for label in "ABCD"],
        "answer_label": "B",
    }
    body = json.dumps({"question": asked, "text": f"<think>{'fever ' * 300}</think><answer>B</answer>"}).encode()
    url = f"http://127.0.0.1:{port}"
    try:
        deploy(ServiceConfig(port=port, max_pending_requests=pending, cpus_per_replica=1), RewardConfig(), "")
        asyncio.run(ask_for(url, 5, None, 8, body))
        own, before = time.process_time(), service_cpu()
        found = asyncio.run(ask_for(url, min(seconds, 15), None, max(2, pending // 2), body))
        own, spent = time.process_time() - own, {k: v - before[k] for k, v in service_cpu().items()}
        fine = found["codes"].get(200, 0)
        capacity = fine / found["wall"]
        say(figures, f"http, {max(2, pending // 2)} clients in a closed loop (capacity)", capacity, "requests per s")
        for who, cost in {"load generator": own, **spent}.items():
            say(figures, f"http at capacity: CPU of the {who} per request", 1e3 * cost / fine, "ms")
        for factor in times:
            load(figures, url, seconds, factor * capacity, f"http at {factor} x capacity, {seconds:g} s", body)
    finally:
        serve.shutdown()
        ray.shutdown()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["worker", "pool", "http", "all"], nargs="?", default="worker")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each load of http")
    parser.add_argument("--times", type=int, nargs="+", default=[1, 2, 3], help="loads of http, in capacities")
    parser.add_argument("--pending", type=int, default=32, help="requests that a replica takes at once")
    parser.add_argument("--actors", type=int, default=1, help="reward actors of pool")
    parser.add_argument("--out", type=Path, help="append the figures as JSON lines")
    args = parser.parse_args()
    figures: list[dict[str, Any]] = []
    print(f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} CPUs seen, "
          f"load {os.getloadavg()[0]:.1f}")  # fmt: skip
    if args.what in ("worker", "all"):
        bench_worker(figures)
        asyncio.run(bench_host(figures))
    if args.what in ("pool", "all"):
        asyncio.run(bench_pool(figures, args.actors))
    if args.what in ("http", "all"):
        bench_http(figures, args.seconds, args.pending, args.times)
    if args.out:
        with args.out.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(figure) + "\n" for figure in figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
