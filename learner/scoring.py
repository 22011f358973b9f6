"""Log-probabilities and entropy of given tokens, without the logits of a whole batch ever existing.

Shapes: N scored tokens, H hidden width, V vocabulary. Logits of N tokens in fp32 are the largest tensor of a training
step by far (8,192 tokens of a 152k vocabulary: 5 GB, and as much again for their gradient). Here the output layer
itself turns hidden states into two numbers per token, chunk by chunk, and computes each chunk's logits again in the
backward pass. It happens inside the output layer's own forward, because that is where ZeRO-3 gathers its weight: once
for all chunks of a forward, and once more for those of the backward.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from data.errors import SetupError
from learner.tensors import TokenBatch

UNSUPPORTED = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Settings of a model's configuration that change the logits behind the output layer."""


class TokenScores(torch.autograd.Function):
    """``(hidden [N, H], weight [V, H], targets [N]) -> [N, 2]``: log-probability and entropy in nats.

    With z = hidden W' / temperature, p = softmax(z), entropy S: d logp_y / dz = onehot(y) - p and
    dS / dz = -p (log p + S). Arithmetic behind the matrix product is fp32 (fp64 stays).
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, temperature: float, chunk: int
    ) -> torch.Tensor:
        scores = hidden.new_empty((len(hidden), 2), dtype=_wide(hidden.dtype))
        for rows in _chunks(len(hidden), chunk):
            logp = _log_softmax(hidden[rows], weight, temperature)
            scores[rows, 0] = logp.gather(1, targets[rows, None])[:, 0]
            scores[rows, 1] = -(logp.exp().mul_(logp)).sum(dim=1)
        ctx.save_for_backward(hidden, weight, targets, scores)
        ctx.temperature, ctx.chunk = temperature, chunk
        return scores

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        hidden, weight, targets, scores = ctx.saved_tensors
        wide = scores.dtype
        by_logprob, by_entropy = (gradient / ctx.temperature).to(wide).unbind(dim=1)
        use_entropy = bool(by_entropy.any())
        to_hidden = torch.empty_like(hidden)
        # Summed over the chunks in fp32 also where the weight is bf16.
        to_weight = torch.zeros(weight.shape, dtype=wide, device=weight.device) if ctx.needs_input_grad[1] else None
        for rows in _chunks(len(hidden), ctx.chunk):
            logp = _log_softmax(hidden[rows], weight, ctx.temperature)
            if use_entropy:
                pull = by_logprob[rows, None] + by_entropy[rows, None] * (logp + scores[rows, 1:])
                to_logits = logp.exp_().mul_(pull.neg_())
            else:
                to_logits = logp.exp_().mul_(-by_logprob[rows, None])
            to_logits.scatter_add_(1, targets[rows, None], by_logprob[rows, None])
            narrow = to_logits.to(hidden.dtype)
            torch.matmul(narrow, weight, out=to_hidden[rows])
            if to_weight is not None:
                to_weight += narrow.t() @ hidden[rows]
        return to_hidden, None if to_weight is None else to_weight.to(weight.dtype), None, None, None


def _wide(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32


def _log_softmax(hidden: torch.Tensor, weight: torch.Tensor, temperature: float) -> torch.Tensor:
    logits = (hidden @ weight.t()).to(_wide(hidden.dtype)).div_(temperature)
    return logits.sub_(logits.logsumexp(dim=1, keepdim=True))


def _chunks(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


class ScoringHead(torch.nn.Module):
    """Takes the place of a model's output layer, with the same weight under the same name.

    Inside `scoring` its output is [..., N, 2] instead of [..., N, V]; outside it returns logits, as ever.

    Args:
        linear: the layer it replaces; no bias.
        chunk_bytes: the most that one chunk's fp32 logits may take.
    """

    def __init__(self, linear: torch.nn.Linear, chunk_bytes: int) -> None:
        super().__init__()
        self.weight = linear.weight
        self.chunk = max(1, chunk_bytes // (4 * linear.out_features))
        self._wanted: tuple[torch.Tensor, float] | None = None

    @contextmanager
    def scoring(self, targets: torch.Tensor, temperature: float) -> Iterator[None]:
        """Score ``targets`` [N] in the forward passes inside."""
        self._wanted = (targets, temperature)
        try:
            yield
        finally:
            self._wanted = None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if self._wanted is None:
            return torch.nn.functional.linear(hidden, self.weight)
        targets, temperature = self._wanted
        flat = hidden.reshape(-1, hidden.shape[-1])
        scores: torch.Tensor = TokenScores.apply(flat, self.weight, targets, temperature, self.chunk)
        return scores.view(*hidden.shape[:-1], 2)


def install_scoring_head(model: Any, chunk_bytes: int) -> None:
    """Put a `ScoringHead` in the place of ``model``'s output layer (a causal language model of transformers).

    Raises:
        SetupError: an output layer with a bias, or a model that changes its logits afterwards.
    """
    head = model.get_output_embeddings()
    changed = [name for name in UNSUPPORTED if getattr(model.config, name, None) not in (None, 1, 1.0)]
    if not isinstance(head, torch.nn.Linear) or head.bias is not None or changed:
        what = f"sets {changed[0]}" if changed else "has an output layer that is more than one matrix"
        raise SetupError(
            f"the model ({type(model).__name__}) {what}, which the learner's output layer does not do",
            remedy="train a model with a plain output layer (Qwen, Llama, Mistral, Gemma 3)",
        )
    model.set_output_embeddings(ScoringHead(head, chunk_bytes))


class Scorable(Protocol):
    """A model behind `install_scoring_head`, bare or inside a DeepSpeed engine or an adapter."""

    def __call__(self, **inputs: Any) -> Any: ...

    def modules(self) -> Iterator[torch.nn.Module]: ...


def score(model: Scorable, batch: TokenBatch, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and entropy of a packed batch under the temperature-scaled distribution (as vLLM's processed
    log-probabilities are); fp32 [B, T] each, both with a gradient, zero outside ``batch.mask``."""
    head = next(module for module in model.modules() if isinstance(module, ScoringHead))
    with head.scoring(batch.targets, temperature):
        scores = model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            segments=batch.segments,
            use_cache=False,
            logits_to_keep=batch.predictors,
        ).logits[0]
    logprobs, entropy = batch.grid(scores).unbind(dim=-1)
    return logprobs, entropy
