"""Four ways to keep packed sequences apart in attention on the CPU, forward and backward.

    python bench/attention.py [--threads 1] [--dtype float32]

CPU seconds of this process, the best of four: other work on the machine hardly counts.

    once       spans in place, a shared prompt computed once: what `learner/segments.py` does
    segments   one causal call per sequence, its prompt copied in front; no mask
    padded     one causal call over a batch padded to the longest sequence
    mask       one call over the packed row with a mask of what sees what
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch.nn.functional import scaled_dot_product_attention as attend

from data.wire import TrainSequence
from learner.segments import PromptOnce
from learner.tensors import Segments, collate

Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
SHAPES = {
    # name: query heads, key-value heads, head width, prompts, tokens of one, completions of one, shortest, longest
    "SmolLM2-135M, 32 of 50 to 250 tokens": (9, 3, 64, 32, 1, 1, 50, 250),
    "SmolLM2-135M, 8 of 20 to 1,000": (9, 3, 64, 8, 1, 1, 20, 1000),
    "SmolLM2-135M, 4 prompts of 145, 8 x 20 to 48": (9, 3, 64, 4, 145, 8, 20, 48),
    "SmolLM2-135M, 1 prompt of 800, 8 x 50 to 250": (9, 3, 64, 1, 800, 8, 50, 250),
    "7M policy, 64 of 30 to 70": (4, 2, 64, 64, 1, 1, 30, 70),
}


def packed(prompts: int, prompt: int, completions: int, shortest: int, longest: int) -> Segments:
    """A packed row of ``completions`` of each of the prompts, of random lengths."""
    rng = random.Random(0)
    rows = [
        TrainSequence(
            prompt_token_ids=(1,) * (prompt - 1) + (2 + index,),
            token_ids=(0,) * (1 + length),
            sampled_logprobs=(0.0,) * (1 + length),
            advantage=0.0,
            coefficient=1.0,
        )
        for index in range(prompts)
        for length in (rng.randint(shortest, longest) for _ in range(completions))
    ]
    return collate(rows).segments


def once(segments: Segments) -> Attention:
    def run(*tensors: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = PromptOnce.apply(*(t.transpose(0, 1) for t in tensors), segments, None)
        return out

    return run


def laid_out(segments: Segments, attention: Attention) -> Attention:
    """``attention`` over sequences that each have their prompt in front of them."""

    def run(*tensors: torch.Tensor) -> torch.Tensor:
        if segments.source is None or segments.collect is None:
            return attention(*tensors)
        q, k, v = (t.index_select(0, segments.source) for t in tensors)
        return attention(q, k, v).index_select(0, segments.collect)

    return run


def segments(segments: Segments) -> Attention:
    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        parts = zip(*(t.transpose(0, 1).unsqueeze(0).split(segments.lengths, dim=2) for t in (q, k, v)), strict=True)
        outs = [attend(a, b, c, is_causal=True, enable_gqa=True) for a, b, c in parts]
        return torch.cat(outs, dim=2)[0].transpose(0, 1)

    return laid_out(segments, run)


def padded(segments: Segments) -> Attention:
    lengths, starts = segments.lengths, segments.starts.tolist()
    longest = max(lengths)
    source = torch.zeros(len(lengths), longest, dtype=torch.long)
    for row, length in enumerate(lengths):
        source[row, :length] = torch.arange(starts[row], starts[row + 1])
    kept = torch.cat([torch.arange(row * longest, row * longest + n) for row, n in enumerate(lengths)])

    def run(*tensors: torch.Tensor) -> torch.Tensor:
        shape = (len(lengths), longest, -1, tensors[0].shape[-1])
        q, k, v = (t.index_select(0, source.view(-1)).view(shape).transpose(1, 2) for t in tensors)
        out = attend(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)
        return out.flatten(0, 1).index_select(0, kept)

    return laid_out(segments, run)


def mask(segments: Segments) -> Attention:
    count = segments.spans[-1].stop
    allowed = torch.zeros(count, count, dtype=torch.bool)
    for span in segments.spans:
        allowed[span.start : span.stop, span.start : span.stop] = torch.ones(len(span), len(span)).tril().bool()
    for one in segments.look_backs:
        allowed[one.queries.start : one.queries.stop, one.keys.start : one.keys.stop] = True

    def run(*tensors: torch.Tensor) -> torch.Tensor:
        heads = tensors[0].shape[1]
        q, k, v = (t.repeat_interleave(heads // t.shape[1], dim=1).transpose(0, 1).unsqueeze(0) for t in tensors)
        return attend(q, k, v, attn_mask=allowed)[0].transpose(0, 1)

    return run


def cpu_seconds(attention: Attention, tensors: list[torch.Tensor]) -> float:
    best = float("inf")
    for _ in range(4):
        start = time.process_time()
        attention(*tensors).sum().backward()
        best = min(best, time.process_time() - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name, (heads, kv_heads, width, *layout) in SHAPES.items():
        row = packed(*layout)
        tensors = [
            torch.randn(row.spans[-1].stop, h, width, dtype=getattr(torch, arguments.dtype), requires_grad=True)
            for h in (heads, kv_heads, kv_heads)
        ]
        ways = {way.__name__: cpu_seconds(way(row), tensors) for way in (once, segments, padded, mask)}
        print(f"{name:<46}" + "  ".join(f"{way} {seconds * 1e3:7.0f} ms" for way, seconds in ways.items()), flush=True)


if __name__ == "__main__":
    main()
