"""Three ways to keep packed sequences apart in attention on the CPU, forward and backward.

    python bench/attention.py [--threads 1] [--dtype float32]

CPU seconds of this process, the best of four: other work on the machine hardly counts.

    segments   one causal call per sequence, no mask: what `learner/segments.py` does
    padded     one causal call over a batch padded to the longest sequence
    mask       one call over the packed row with a block-diagonal mask
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from itertools import accumulate

import torch
from torch.nn.functional import scaled_dot_product_attention as attend

Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
SHAPES = {
    # name: query heads, key-value heads, head width, sequences, shortest, longest
    "SmolLM2-135M, 32 of 50 to 250 tokens": (9, 3, 64, 32, 50, 250),
    "SmolLM2-135M, 8 of 20 to 1,000": (9, 3, 64, 8, 20, 1000),
    "7M policy, 64 of 30 to 70": (4, 2, 64, 64, 30, 70),
}


def segments(lengths: list[int]) -> Attention:
    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        parts = zip(*(t.transpose(0, 1).unsqueeze(0).split(lengths, dim=2) for t in (q, k, v)), strict=True)
        outs = [attend(a, b, c, is_causal=True, enable_gqa=True) for a, b, c in parts]
        return torch.cat(outs, dim=2)[0].transpose(0, 1)

    return run


def padded(lengths: list[int]) -> Attention:
    longest, starts = max(lengths), [0, *accumulate(lengths)]
    source = torch.zeros(len(lengths), longest, dtype=torch.long)
    for row, length in enumerate(lengths):
        source[row, :length] = torch.arange(starts[row], starts[row + 1])
    kept = torch.cat([torch.arange(row * longest, row * longest + n) for row, n in enumerate(lengths)])

    def run(*tensors: torch.Tensor) -> torch.Tensor:
        shape = (len(lengths), longest, -1, tensors[0].shape[-1])
        q, k, v = (t.index_select(0, source.view(-1)).view(shape).transpose(1, 2) for t in tensors)
        out = attend(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)
        return out.flatten(0, 1).index_select(0, kept)

    return run


def mask(lengths: list[int]) -> Attention:
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    allowed = (owner[:, None] == owner) & torch.ones(len(owner), len(owner), dtype=torch.bool).tril()

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
    rng = random.Random(0)
    for name, (heads, kv_heads, width, count, shortest, longest) in SHAPES.items():
        lengths = [rng.randint(shortest, longest) for _ in range(count)]
        tensors = [
            torch.randn(sum(lengths), h, width, dtype=getattr(torch, arguments.dtype), requires_grad=True)
            for h in (heads, kv_heads, kv_heads)
        ]
        ways = {way.__name__: cpu_seconds(way(lengths), tensors) for way in (segments, padded, mask)}
        print(f"{name:<38}" + "  ".join(f"{way} {seconds * 1e3:7.0f} ms" for way, seconds in ways.items()), flush=True)


if __name__ == "__main__":
    main()
