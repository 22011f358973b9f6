"""The learner's forward and backward on one group, three ways, and where the time goes. No ZeRO-3, no engine.

    python bench/learner.py                    SmolLM2-135M's shape, random weights
    python bench/learner.py --model 7m

CPU seconds of this process, the best of ``--repeat``: other work on the machine hardly counts.

    padded    right-padded rows, all logits of the completion positions at once (plain transformers, sdpa)
    packed    one row without padding, log-probabilities in chunks, the prompt once per completion
    shared    the same, the prompt once for all completions: what the learner does
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from data.wire import TrainSequence
from learner.scoring import install_scoring_head, score
from learner.segments import ATTENTION, register
from learner.tensors import TokenBatch, collate

SMOLLM2 = {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
SHAPES: dict[str, dict[str, int]] = {
    "smollm2": {**SMOLLM2, "num_attention_heads": 9, "num_key_value_heads": 3},
    "7m": {
        "vocab_size": 2048,
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 7,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}


def group(prompt: int, lengths: Sequence[int], vocabulary: int, *, shared: bool) -> list[TrainSequence]:
    """Completions of these lengths, of one prompt or each of its own."""
    rng = random.Random(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(vocabulary) for _ in range(count))

    one = ids(prompt)
    return [
        TrainSequence(
            prompt_token_ids=one if shared else ids(prompt),
            token_ids=ids(length),
            sampled_logprobs=(0.0,) * length,
            advantage=0.0,
            coefficient=1.0,
        )
        for length in lengths
    ]


def padded_step(model: Any, rows: Sequence[TrainSequence]) -> None:
    ids = pad_sequence([torch.tensor(row.prompt_token_ids + row.token_ids) for row in rows], batch_first=True)
    lengths = torch.tensor([row.length for row in rows])
    first = len(rows[0].prompt_token_ids)
    at = torch.arange(ids.shape[1])
    keep = ids.shape[1] - first
    logits = model(ids, attention_mask=at < lengths[:, None], use_cache=False, logits_to_keep=keep + 1).logits
    logp = torch.log_softmax(logits[:, :-1].float(), dim=-1).gather(2, ids[:, first:, None])[..., 0]
    logp.masked_fill(~(at < lengths[:, None])[:, first:], 0.0).sum().backward()


def packed_step(model: Any, rows: Sequence[TrainSequence]) -> None:
    batch = collate(rows)
    logprobs, _ = score(model, batch, 1.0)
    logprobs.masked_fill(~batch.mask, 0.0).sum().backward()


def flops(shape: Any, batch: TokenBatch) -> float:
    """6 per weight and token (layers: every packed token; output layer: scored ones) and 12 x width per pair of tokens
    that see each other. What is computed twice counts once."""
    head = shape.hidden_size // shape.num_attention_heads
    attention = 2 * shape.hidden_size * (shape.hidden_size + head * shape.num_key_value_heads)
    layer: float = attention + 3 * shape.hidden_size * shape.intermediate_size
    body: float = shape.num_hidden_layers * (
        6.0 * layer * batch.input_ids.numel() + 12.0 * shape.hidden_size * batch.segments.pairs
    )
    output: float = 6.0 * shape.vocab_size * shape.hidden_size * len(batch.targets)
    return body + output


def cpu_seconds(work: Callable[[], Any], repeat: int) -> float:
    best = float("inf")
    for _ in range(repeat):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SHAPES, default="smollm2")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=90, help="tokens")
    parser.add_argument("--completions", default="48,9,30,17", help="their lengths, tokens")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    register()
    dtype = getattr(torch, arguments.dtype)
    config = LlamaConfig(**SHAPES[arguments.model], tie_word_embeddings=True, max_position_embeddings=2048)
    model = LlamaForCausalLM._from_config(config, attn_implementation="sdpa", dtype=dtype)
    lengths = [int(part) for part in arguments.completions.split(",")]
    apart, shared = (group(arguments.prompt, lengths, config.vocab_size, shared=s) for s in (False, True))

    a, b = torch.randn(2, 1024, 1024).to(dtype)
    rate = 2.0 * 1024**3 / cpu_seconds(lambda: a @ b, 8)
    print(f"matrix products of 1,024: {rate / 1e9:.0f} GFLOP per CPU second, {arguments.dtype}")
    seconds = {"padded": cpu_seconds(lambda: padded_step(model, apart), arguments.repeat)}
    model.set_attn_implementation(ATTENTION)
    install_scoring_head(model, 256 << 20)
    for name, rows in (("packed", apart), ("shared", shared)):
        seconds[name] = cpu_seconds(lambda rows=rows: packed_step(model, rows), arguments.repeat)  # type: ignore[misc]
        share = flops(config, collate(rows)) / seconds[name] / rate
        print(
            f"{name}: {collate(rows).input_ids.numel()} tokens in the layers, {share:.2f} of the matrix products' rate"
        )
    for name, value in seconds.items():
        print(
            f"{name}: {value:.2f} CPU s for {sum(lengths)} completion tokens, {seconds['padded'] / value:.2f} x padded"
        )
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        packed_step(model, shared)
    print(recorded.key_averages().table(sort_by="self_cpu_time_total", row_limit=8, max_name_column_width=40))


if __name__ == "__main__":
    main()
