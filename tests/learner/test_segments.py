"""Attention with every shared prompt computed once, against one softmax over all that a token may see."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.wire import TrainSequence
from learner.segments import PromptOnce
from learner.tensors import Segments, collate

Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def segments_of(rows: list[tuple[int, int]]) -> Segments:
    """Of (prompt, tokens of a completion) each; prompt n has 3 n + 1 tokens."""
    return collate(
        [
            TrainSequence(
                prompt_token_ids=(prompt,) * (3 * prompt + 1),
                token_ids=(0,) * length,
                sampled_logprobs=(0.0,) * length,
                advantage=0.0,
                coefficient=1.0,
            )
            for prompt, length in rows
        ]
    ).segments


def tensors_for(segments: Segments, heads: int, kv_heads: int, dtype: torch.dtype) -> Tensors:
    """Query, key and value, laid out as a model hands them over: a transposed view."""
    torch.manual_seed(0)
    packed = segments.spans[-1].stop
    q, k, v = (
        torch.randn(packed, h, 8, dtype=dtype).transpose(0, 1).requires_grad_() for h in (heads, kv_heads, kv_heads)
    )
    return q, k, v


def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, segments: Segments, scale: float) -> torch.Tensor:
    """Every completion with its prompt copied in front, a softmax with a causal mask, [P, heads, D]."""
    at = segments.source if segments.source is not None else torch.arange(q.shape[1])
    outputs = []
    for part in at.split(segments.lengths):
        a, b, c = (tensor[:, part] for tensor in (q, k, v))
        b, c = (tensor.repeat_interleave(len(q) // len(k), 0) for tensor in (b, c))
        seen = torch.ones(len(part), len(part)).tril().bool()
        weights = torch.softmax((a @ b.transpose(1, 2) * scale).masked_fill(~seen, -math.inf), -1)
        outputs.append((weights @ c).transpose(0, 1))
    out = torch.cat(outputs)
    return out if segments.collect is None else out[segments.collect]


ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 7)), min_size=1, max_size=12)


@given(ROWS, st.sampled_from([(4, 2), (3, 1), (2, 2)]), st.sampled_from([None, 0.3]))
@settings(max_examples=40, deadline=None)
def test_outputs_and_gradients_are_those_of_one_softmax(
    rows: list[tuple[int, int]], heads: tuple[int, int], scale: float | None
) -> None:
    segments = segments_of(rows)
    tensors = tensors_for(segments, *heads, torch.float64)
    got = PromptOnce.apply(*tensors, segments, scale)
    wanted = plain(*tensors, segments, scale or 8**-0.5)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-13)
    # Every token weighs differently; of prompt tokens that several completions have, `plain` reads one copy, and the
    # copies share their inputs: the gradients are whole.
    weights = torch.randn_like(wanted)
    ours, theirs = (torch.autograd.grad((out * weights).sum(), tensors) for out in (got, wanted))
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-12)


def test_segments_longer_than_a_block_of_the_kernel() -> None:
    """The kernel cuts queries and keys in blocks of up to 512; prompt and completions go over several."""
    segments = segments_of([(200, 300), (200, 700), (200, 40)])
    tensors = tensors_for(segments, 2, 1, torch.float64)
    got, wanted = PromptOnce.apply(*tensors, segments, None), plain(*tensors, segments, 8**-0.5)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)
    ours, theirs = (torch.autograd.grad(out.square().sum(), tensors) for out in (got, wanted))
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-10, atol=1e-10)


def test_the_gradient_is_the_numerical_one() -> None:
    segments = segments_of([(1, 3), (1, 4), (0, 2), (1, 2)])
    tensors = tensors_for(segments, 2, 1, torch.float64)
    assert torch.autograd.gradcheck(lambda q, k, v: PromptOnce.apply(q, k, v, segments, None), tensors)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_rounding_is_that_of_the_usual_way(dtype: torch.dtype) -> None:
    """Merging two halves may round once more: at most twice the error of a softmax in the same precision."""
    segments = segments_of([(30, 40)] + [(30, 25)] * 7)
    tensors = tensors_for(segments, 4, 2, dtype)
    q, k, v = exact = tuple(tensor.detach().double().requires_grad_() for tensor in tensors)
    wanted = plain(q, k, v, segments, 8**-0.5)
    reference = [wanted.detach(), *torch.autograd.grad(wanted.square().sum(), exact)]
    errors = []
    for out in (PromptOnce.apply(*tensors, segments, None), plain(*tensors, segments, 8**-0.5)):
        assert out.dtype == dtype
        found = [out.detach(), *torch.autograd.grad(out.square().sum(), tensors)]
        errors.append([((a.double() - b).norm() / b.norm()).item() for a, b in zip(found, reference, strict=True)])
    for ours, usual in zip(*errors, strict=True):
        assert ours < 2 * usual < 0.1
