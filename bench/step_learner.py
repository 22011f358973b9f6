"""The learner parts of `bench/step.py`: packed rows under ZeRO-3 against the usual padded ones."""

from __future__ import annotations

import os
import random
from typing import Any

from step_parts import Phases, Workload, one_rank, prompt_ids, steps


def learner(workload: Workload) -> dict[str, Any]:
    """Rows of different prompts, so that only padding makes the difference."""
    return _measured(workload, _rows(workload, shared=False))


def groups(workload: Workload) -> dict[str, Any]:
    """The groups of the workload: what training packs, with the prompt of a group once."""
    return _measured(workload, _rows(workload, shared=True))


def _measured(workload: Workload, rows: list[Any]) -> dict[str, Any]:
    """A step on one ragged batch: packed under ZeRO-3 (one rank), and padded in plain transformers."""
    import torch.distributed as dist

    from learner.process import prepare_process

    prompts = {row.prompt_token_ids for row in rows}
    quarter = (sum(map(len, prompts)) + sum(len(row.token_ids) for row in rows)) // 4
    config = one_rank(workload).model_copy(update={"max_tokens_per_micro_batch": quarter})
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    prepare_process(config)
    dist.init_process_group("gloo", init_method=f"file://{workload.scratch}/store-{os.getpid()}", rank=0, world_size=1)
    phases = Phases()
    flops, shares = _packed(workload, config, rows, phases)
    _padded(workload, rows, phases)
    tokens = sum(len(row.token_ids) for row in rows)
    return {"phases": phases, "tokens": tokens, "packed_flops": flops, "packed_tokens": shares}


def _rows(workload: Workload, *, shared: bool) -> list[Any]:
    """Completion lengths spread evenly from 1 to the limit; whole prompts, each with its group, or every row with a
    prompt of its own, cut at random."""
    from data.wire import TrainSequence

    rng = random.Random(1)
    prompts = prompt_ids(workload)
    rows = []
    for index in range(workload.rows):
        if shared:
            prompt = tuple(prompts[index // workload.group])
        else:
            prompt = (index % 1000 + 300, *prompts[index % len(prompts)][: rng.randint(8, 10_000)])
        length = rng.randint(1, workload.max_tokens)
        tokens = tuple(rng.randrange(300, 2000) for _ in range(length))
        rows.append(
            TrainSequence(
                prompt_token_ids=prompt,
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
    for _ in steps(workload):
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
    layers = shape.num_hidden_layers
    body: float = 6.0 * layers * per_layer * batch.input_ids.numel() + 12.0 * layers * width * batch.segments.pairs
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
    for _ in steps(workload):
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
                    grpo,
                )
                loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
