"""Packed, chunked scores and their gradients against a plain forward pass of one sequence at a time."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

import learner.segments
from data.errors import EngineError, SetupError
from data.wire import TrainSequence
from learner.scoring import ScoringHead, TokenScores, install_scoring_head, score
from learner.segments import ATTENTION, register
from learner.tensors import TokenBatch, collate
from tests.learner.tiny import write_tiny_model
from tests.tiny_model import VOCABULARY, build_model

TEMPERATURE = 0.7


@pytest.fixture(autouse=True)
def norms_keep_fp64(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers computes norms in fp32 whatever the dtype, which would hide differences below 1e-6."""

    def forward(self: Qwen2RMSNorm, hidden: torch.Tensor) -> torch.Tensor:
        return self.weight * hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    monkeypatch.setattr(Qwen2RMSNorm, "forward", forward)


def ragged_rows(count: int, *, seed: int, prompts: int) -> list[TrainSequence]:
    """``count`` rows over ``prompts`` different prompts, of all lengths, one without tokens."""
    rng = random.Random(seed)
    shared = [tuple(rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 12))) for _ in range(prompts)]
    rows = []
    for index in range(count):
        tokens = tuple(rng.randrange(VOCABULARY) for _ in range(0 if index == 1 else rng.randint(1, 9)))
        rows.append(
            TrainSequence(
                prompt_token_ids=shared[index % prompts],
                token_ids=tokens,
                sampled_logprobs=(0.0,) * len(tokens),
                advantage=0.0,
                coefficient=1.0,
            )
        )
    return rows


def load(
    folder: Path, dtype: torch.dtype, *, tied: bool = True, window: int | None = None, chunk: int = 4 << 20
) -> tuple[Any, Any]:
    """(the model as the learner runs it, the same weights as transformers alone runs them)"""
    register()
    model_dir = write_tiny_model(folder, tied=tied)
    options: dict[str, object] = {"dtype": dtype}
    if window:
        layers = ["sliding_attention", "full_attention"]
        options |= {"use_sliding_window": True, "sliding_window": window, "layer_types": layers}
    ours = AutoModelForCausalLM.from_pretrained(model_dir, attn_implementation=ATTENTION, **options)
    install_scoring_head(ours, chunk)
    return ours, AutoModelForCausalLM.from_pretrained(model_dir, attn_implementation="sdpa", **options)


def plain_scores(model: PreTrainedModel, rows: Sequence[TrainSequence]) -> tuple[torch.Tensor, torch.Tensor]:
    """One row after the other, all logits at once, nothing packed."""
    logprobs, entropy = [], []
    for row in rows:
        logits = model(torch.tensor([row.prompt_token_ids + row.token_ids])).logits[0] / TEMPERATURE
        logp = torch.log_softmax(logits[len(row.prompt_token_ids) - 1 : -1], dim=-1)
        logprobs.append(logp[range(len(row.token_ids)), list(row.token_ids)])
        entropy.append(-(logp.exp() * logp).sum(dim=-1))
    return torch.cat(logprobs), torch.cat(entropy)


def objective(logprobs: torch.Tensor, entropy: torch.Tensor) -> torch.Tensor:
    """A different weight for every token, and the entropy with a gradient of its own."""
    weights = torch.linspace(-1.0, 1.0, len(logprobs), dtype=logprobs.dtype)
    return (weights * logprobs).sum() + 0.3 * (weights.flip(0) * entropy).sum()


def gradients(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def packed_scores(model: PreTrainedModel, batch: TokenBatch) -> tuple[torch.Tensor, torch.Tensor]:
    logprobs, entropy = score(model, batch, TEMPERATURE)
    return logprobs[batch.mask], entropy[batch.mask]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("window", [None, 5])
def test_packed_scores_and_gradients_are_the_plain_ones(tmp_path: Path, tied: bool, window: int | None) -> None:
    """To 1e-12 in fp64. In fp32 their error is that of a plain forward in fp32."""
    rows = ragged_rows(9, seed=1, prompts=3)
    found = {}
    for dtype in (torch.float64, torch.float32):
        ours, plain = load(tmp_path, dtype, tied=tied, window=window, chunk=3 * 4 * VOCABULARY)
        for kind, scores, model in (
            ("packed", packed_scores(ours, collate(rows)), ours),
            ("plain", plain_scores(plain, rows), plain),
        ):
            objective(*scores).backward()
            found[kind, dtype] = {"logprobs": scores[0].detach(), "entropy": scores[1].detach(), **gradients(model)}

    def distance(kind: str, dtype: torch.dtype, names: Sequence[str]) -> float:
        exact, own = found["plain", torch.float64], found[kind, dtype]
        error = torch.stack([(own[name] - exact[name]).norm() for name in names]).norm()
        return float(error / torch.stack([exact[name].norm() for name in names]).norm())

    trained = [name for name in found["plain", torch.float64] if name.startswith(("model.", "lm_head."))]
    assert len(trained) >= 26
    for names in (["logprobs"], ["entropy"], trained):
        assert distance("packed", torch.float64, names) < 1e-12
        assert distance("packed", torch.float32, names) < 3 * distance("plain", torch.float32, names) < 1e-5


def test_chunks_change_the_gradient_of_the_output_layer_by_rounding_only() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(40, 32, requires_grad=True), torch.randn(500, 32, requires_grad=True)
    targets = torch.randint(0, 500, (40,))
    logp = torch.log_softmax(hidden @ weight.t(), dim=-1)
    plain = torch.autograd.grad(objective(logp[range(40), targets], -(logp.exp() * logp).sum(-1)), (hidden, weight))
    for chunk in (1, 7, 40, 64):
        scores = TokenScores.apply(hidden, weight, targets, 1.0, chunk)
        chunked = torch.autograd.grad(objective(*scores.unbind(dim=1)), (hidden, weight))
        for ours, theirs in zip(chunked, plain, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6 * theirs.abs().max().item())


@given(st.integers(1, 20), st.integers(1, 4), st.lists(st.integers(1, 5), min_size=1, max_size=6), st.randoms())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_gradient_does_not_depend_on_packing_micro_batches_or_chunks(
    chunk: int, prompts: int, cuts: list[int], rng: random.Random
) -> None:
    register()
    rows = ragged_rows(8, seed=3, prompts=prompts)
    model = build_model(0).double()
    model.set_attn_implementation(ATTENTION)
    install_scoring_head(model, 1 << 20)
    head = model.get_output_embeddings()

    def gradient_of(micro_batches: list[list[TrainSequence]]) -> dict[str, torch.Tensor]:
        for rows_ in micro_batches:
            batch = collate(rows_)
            logprobs, entropy = score(model, batch, 1.0)
            weight = torch.tensor([1.0 + rows.index(row) for row in rows_] or [0.0]).unsqueeze(1)
            ((logprobs + 0.1 * entropy) * weight).masked_fill(~batch.mask, 0.0).sum().backward()
        return gradients(model)

    whole = gradient_of([rows])
    head.chunk = chunk
    shuffled = rng.sample(rows, len(rows))
    micro_batches: list[list[TrainSequence]] = [[]]
    for size in cuts:
        micro_batches.append(shuffled[:size])
        shuffled = shuffled[size:]
    parts = gradient_of([*micro_batches, shuffled])
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-9, atol=1e-11, msg=name)


def test_scores_are_logprob_and_entropy_by_hand() -> None:
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(5, 4), torch.randn(7, 4), torch.randint(0, 7, (5,))
    scores = TokenScores.apply(hidden, weight, targets, 2.0, 2)
    for n in range(5):
        scaled = [math.exp(value / 2.0) for value in (weight @ hidden[n]).tolist()]
        p = [value / sum(scaled) for value in scaled]
        assert scores[n, 0].item() == pytest.approx(math.log(p[int(targets[n])]), abs=1e-5)
        assert scores[n, 1].item() == pytest.approx(-sum(x * math.log(x) for x in p), abs=1e-5)


def test_the_formula_of_the_gradient_is_the_numerical_one() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 6, (5,))
    assert torch.autograd.gradcheck(lambda h, w: TokenScores.apply(h, w, targets, 0.7, 2), (hidden, weight))


def test_half_precision_scores_are_fp32_behind_the_product() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(4, 8).bfloat16(), torch.randn(50, 8).bfloat16()
    scores = TokenScores.apply(hidden, weight, torch.zeros(4, dtype=torch.long), 1.0, 3)
    assert scores.dtype == torch.float32
    logits = (hidden @ weight.t()).double()
    torch.testing.assert_close(scores[:, 0], torch.log_softmax(logits, -1)[:, 0].float(), rtol=1e-5, atol=1e-6)


def test_no_block_of_logits_is_larger_than_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    real = torch.Tensor.logsumexp

    def watched(logits: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        sizes.append(logits.numel() * logits.element_size())
        return real(logits, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "logsumexp", watched)
    linear = torch.nn.Linear(8, 100, bias=False)
    head = ScoringHead(linear, 3 * 400)
    with head.scoring(torch.zeros(10, dtype=torch.long), 1.0):
        head(torch.randn(1, 10, 8, requires_grad=True)).sum().backward()
    assert len(sizes) == 8 and max(sizes) == 3 * 400
    assert linear.weight.grad is not None and head.weight is linear.weight
    assert head(torch.randn(2, 8)).shape == (2, 100)  # outside `scoring` it is the layer it replaced


def test_an_output_layer_that_is_more_than_one_matrix_is_refused() -> None:
    biased = build_model(0)
    biased.set_output_embeddings(torch.nn.Linear(64, VOCABULARY, bias=True))
    with pytest.raises(SetupError, match="more than one matrix"):
        install_scoring_head(biased, 1 << 20)
    capped = build_model(0)
    capped.config.final_logit_softcapping = 30.0
    with pytest.raises(SetupError, match="sets final_logit_softcapping"):
        install_scoring_head(capped, 1 << 20)


def test_a_model_that_drops_the_segments_is_an_error() -> None:
    register()
    model = build_model(0)
    model.set_attn_implementation(ATTENTION)
    with pytest.raises(EngineError, match="Qwen2Attention does not pass"):
        model(torch.tensor([[1, 2, 3]]))


def test_the_kernel_of_a_gpu_gets_the_same_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable-length kernel itself needs a GPU; here a stand-in with its signature and meaning takes the call."""
    calls = []

    def varlen_attn(
        q: Any, k: Any, v: Any, starts_q: Any, starts_k: Any, longest_q: int, longest_k: int, **options: Any
    ) -> Any:
        window_size, scale = options["window_size"], options["scale"]
        assert torch.equal(starts_q, starts_k) and starts_q.dtype == torch.int32 and options["enable_gqa"]
        calls.append((longest_q, longest_k, window_size))
        outputs = []
        for start, end in zip(starts_q[:-1].tolist(), starts_q[1:].tolist(), strict=True):
            i = torch.arange(end - start)
            seen = (i[:, None] >= i) & ((window_size[0] < 0) | (i[:, None] - i <= window_size[0]))
            heads = (t[start:end].transpose(0, 1).repeat_interleave(q.shape[1] // t.shape[1], 0) for t in (q, k, v))
            a, b, c = heads
            weights = torch.softmax((a @ b.transpose(1, 2) * scale).masked_fill(~seen, -math.inf), -1)
            outputs.append((weights @ c).transpose(0, 1))
        return torch.cat(outputs)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
    ours, plain = load(tmp_path, torch.float64, window=5)
    rows = ragged_rows(6, seed=2, prompts=2)
    with monkeypatch.context() as patch:
        patch.setattr(learner.segments, "_in_place", lambda *_: False)
        patch.setattr(learner.segments, "_one_by_one", learner.segments._varlen)
        got = packed_scores(ours, collate(rows))
    torch.testing.assert_close(got[0], plain_scores(plain, rows)[0])
    longest = max(len(row.prompt_token_ids) + max(0, len(row.token_ids) - 1) for row in rows)
    assert calls == [(longest, longest, (4, 0)), (longest, longest, (-1, 0))]
