"""Attention over a packed row, as an attention implementation of transformers: causal inside a segment, none across.

On a GPU in half precision one variable-length flash kernel runs over all segments. Elsewhere the segments are run one
after another with no mask at all: on the CPU that beats both a padded batch and a block-diagonal mask, whose cost grows
with the square of the packed length (docs/performance.md has the figures).
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from data.errors import EngineError
from learner.tensors import Segments

ATTENTION = "fleming_segments"
"""The name under which `register` makes it known to transformers (``attn_implementation``)."""


def register() -> None:
    """Make `ATTENTION` known to transformers; no mask goes with it, since `Segments` says it all."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, segment_attention)


def segment_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    segments: Segments | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """``query``: [1, heads, P, D]; ``key``, ``value``: [1, kv_heads, P, D]; returns [1, P, heads, D].

    Raises:
        EngineError: the model did not hand ``segments`` on to its attention.
    """
    if segments is None:
        raise EngineError(
            f"{type(module).__name__} does not pass keyword arguments to its attention function",
            remedy="train a model whose attention in transformers takes an attention interface",
        )
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    if segments.source is not None:
        q, k, v = (tensor.index_select(0, segments.source) for tensor in (q, k, v))
    kernel = _varlen if q.is_cuda and q.dtype in (torch.bfloat16, torch.float16) else _one_by_one
    out = kernel(q, k, v, segments, scaling, sliding_window)
    if segments.collect is not None:
        out = out.index_select(0, segments.collect)
    return out.unsqueeze(0), None


def _varlen(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, segments: Segments, scale: float | None, window: int | None
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    longest = max(segments.lengths)
    out: torch.Tensor = varlen_attn(
        q.contiguous(),
        k.contiguous(),
        v.contiguous(),
        segments.starts,
        segments.starts,
        longest,
        longest,
        scale=scale,
        # To the left as far as the window, itself included; to the right nothing.
        window_size=(window - 1 if window else -1, 0),
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return out


def _one_by_one(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, segments: Segments, scale: float | None, window: int | None
) -> torch.Tensor:
    parts = zip(*(tensor.split(segments.lengths) for tensor in (q, k, v)), strict=True)
    return torch.cat([_causal(a, b, c, scale, window) for a, b, c in parts])


def _causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float | None, window: int | None) -> torch.Tensor:
    """One segment, [length, heads, D] each."""
    band = None
    if window and len(q) > window:
        band = torch.ones(len(q), len(q), dtype=torch.bool, device=q.device).tril().triu(1 - window)
    out = scaled_dot_product_attention(
        *(tensor.transpose(0, 1).unsqueeze(0) for tensor in (q, k, v)),
        attn_mask=band,
        is_causal=band is None,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return out[0].transpose(0, 1)
