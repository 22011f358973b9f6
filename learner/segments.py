"""Attention over a packed row, as an attention implementation of transformers: causal inside a segment, none across.

On a GPU in half precision one variable-length flash kernel runs over all segments. On the CPU a prompt that a group
shares is computed once, in place: every span runs its causal attention, the completions of a prompt then look back at
it in one call, and the two results are merged by their log-sum-exp (`PromptOnce`). What that cannot do (a sliding
window shorter than a segment, values of another width than keys, fp32 on a GPU) runs segment after segment with no mask
at all. In place beats a padded batch and a mask, whose cost grows with the square of the packed length
(docs/performance.md has the figures).
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from data.errors import EngineError
from learner.tensors import Segments

ATTENTION = "fleming_segments"
"""The name under which `register` makes it known to transformers (``attn_implementation``)."""
_NO_MATTER = {
    *("dropout", "is_causal", "deterministic", "position_ids", "cache_position", "past_key_values", "use_cache"),
    *("return_dict", "output_attentions", "output_hidden_states", "output_router_logits"),
    *("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k"),
}
"""What models hand on to their attention that changes nothing here, or is looked at by name (``dropout``,
``is_causal``); anything else may change it (``softcap``, ``s_aux``)."""
_FORWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


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
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """``query``: [1, heads, P, D]; ``key``, ``value``: [1, kv_heads, P, D]; returns [1, P, heads, D].

    Raises:
        EngineError: the model did not hand ``segments`` on to its attention, or asks for more than attention.
    """
    asked = [name for name, value in settings.items() if value is not None and name not in _NO_MATTER]
    asked += ["a mask"] * (attention_mask is not None)
    asked += ["random dropout"] * bool(settings.get("dropout"))
    asked += ["what follows"] * (settings.get("is_causal") is False)
    if asked:
        raise EngineError(
            f"{type(module).__name__} asks its attention for {', '.join(asked)}, which packed rows do not have",
            remedy="train a model with plain causal attention, such as Llama, Mistral, Qwen2 or Qwen3",
        )
    if segments is None:
        raise EngineError(
            f"{type(module).__name__} does not pass keyword arguments to its attention function",
            remedy="train a model whose attention in transformers takes an attention interface",
        )
    if _in_place(query, key, value, segments, sliding_window):
        out: torch.Tensor = PromptOnce.apply(query[0], key[0], value[0], segments, scaling)
        return out.unsqueeze(0), None
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    if segments.source is not None:
        q, k, v = (tensor.index_select(0, segments.source) for tensor in (q, k, v))
    kernel = _varlen if q.is_cuda and q.dtype in (torch.bfloat16, torch.float16) else _one_by_one
    out = kernel(q, k, v, segments, scaling, sliding_window)
    if segments.collect is not None:
        out = out.index_select(0, segments.collect)
    return out.unsqueeze(0), None


def _in_place(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments, window: int | None
) -> bool:
    windowed = bool(window) and max(segments.lengths) > (window or 0)
    # The operators read entries of a head side by side and do not check that they are.
    readable = key.shape[-1] == value.shape[-1] and all(tensor.stride(-1) == 1 for tensor in (query, key, value))
    return query.device.type == "cpu" and readable and not windowed


class PromptOnce(torch.autograd.Function):
    """Attention in place over ``segments.spans`` and ``segments.look_backs``.

    ``query``: [heads, P, D]; ``key``, ``value``: [kv_heads, P, D]; returns [P, heads, D].

    A token that looks back has two softmaxes over disjoint keys, with outputs a, b and log-sum-exps s, t. One softmax
    over all its keys has r = log(e^s + e^t) and the output a e^(s-r) + b e^(t-r). Flash attention's backward pass
    computes probabilities anew from a log-sum-exp: given r and the merged output, it yields for each half the gradients
    of the whole (Dao et al., FlashAttention, 2022, algorithm 4; merged as in Juravsky et al., Hydragen, 2024, section
    3.1). The operators are those behind torch's `scaled_dot_product_attention`, which keeps the log-sum-exp to itself.
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments, scale: float | None
    ) -> torch.Tensor:
        heads, packed, width = query.shape
        q, k, v = _by_key_head(query, key, value)
        flat = query.new_empty(packed, heads, width)
        out = _split_heads(flat.transpose(0, 1), len(key))
        log_sums = query.new_empty(q.shape[:3], dtype=torch.promote_types(query.dtype, torch.float32))

        def attend(queries: slice, keys: slice, causal: bool) -> tuple[torch.Tensor, torch.Tensor]:
            parts = q[:, :, queries], k[:, :, keys], v[:, :, keys]
            found: tuple[torch.Tensor, torch.Tensor] = _FORWARD(*parts, 0.0, causal, scale=scale)
            return found

        for span in segments.spans:
            own = _slice(span)
            out[:, :, own], log_sums[:, :, own] = attend(own, own, True)
        for one in segments.look_backs:
            queries = _slice(one.queries)
            before, before_sums = attend(queries, _slice(one.keys), False)
            merged = torch.logaddexp(log_sums[:, :, queries], before_sums)
            shares = [(sums - merged).exp_().unsqueeze(-1) for sums in (log_sums[:, :, queries], before_sums)]
            out[:, :, queries] = out[:, :, queries] * shares[0] + before * shares[1]
            log_sums[:, :, queries] = merged
        ctx.save_for_backward(query, key, value, flat, log_sums)
        ctx.segments, ctx.scale = segments, scale
        return flat

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, flat, log_sums = ctx.saved_tensors
        q, k, v = _by_key_head(query, key, value)
        out, d_out = (_split_heads(tensor.transpose(0, 1), len(key)) for tensor in (flat, gradient.contiguous()))
        d_query, d_key, d_value = (torch.empty_like(tensor) for tensor in (query, key, value))
        d_q = _split_heads(d_query, len(key))

        def attend(queries: slice, keys: slice, causal: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            parts = d_out[:, :, queries], q[:, :, queries], k[:, :, keys], v[:, :, keys]
            merged = out[:, :, queries], log_sums[:, :, queries]
            own, of_keys, of_values = _BACKWARD(*parts, *merged, 0.0, causal, scale=ctx.scale)
            return own, of_keys.sum(0), of_values.sum(0)

        for span in ctx.segments.spans:
            own = _slice(span)
            d_q[:, :, own], d_key[:, own], d_value[:, own] = attend(own, own, True)
        for one in ctx.segments.look_backs:
            queries, keys = _slice(one.queries), _slice(one.keys)
            of_queries, of_keys, of_values = attend(queries, keys, False)
            d_q[:, :, queries] += of_queries
            d_key[:, keys] += of_keys
            d_value[:, keys] += of_values
        return d_query, d_key, d_value, None, None


def _slice(tokens: range) -> slice:
    return slice(tokens.start, tokens.stop)


def _split_heads(tensor: torch.Tensor, kv_heads: int) -> torch.Tensor:
    """[heads, P, D] as [query heads of a key head, kv_heads, P, D]; a view."""
    return tensor.unflatten(0, (kv_heads, -1)).transpose(0, 1)


def _by_key_head(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Each [query heads of a key head, kv_heads, P, D]; views: a key head is read by its query heads, never copied."""
    q = _split_heads(query, len(key))
    return q, key.expand(len(q), *key.shape), value.expand(len(q), *value.shape)


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
