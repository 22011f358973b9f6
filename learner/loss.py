"""The GRPO objective (paper, eq. 1 to 3), with the three policies kept apart.

Shapes: B rows of a micro-batch, T completion positions (padded), V vocabulary.
    sampled   log-probabilities that vLLM reported when it drew the token
    proximal  the learner's own, recomputed when the batch starts
    current   the learner's own, with a gradient

Paper eq. 1 is ``-E[(1/k) sum_i log pi(y_i|x) A_i]``; token log-probabilities are summed per completion, with no length
normalisation. On top of it stand PPO's clipped ratio current/proximal, which is exactly 1 (and its gradient that of
log pi) in the first optimiser step of a batch, and the truncated importance weight min(proximal/sampled, C), which
corrects for the engine that sampled being another program, of another precision, than the one that learns.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch


@dataclass(frozen=True, kw_only=True)
class LossStats:
    """Sums over the completion tokens (``gap_max`` is a maximum); they add up over micro-batches and ranks."""

    loss: float = 0.0
    tokens: float = 0.0
    clipped: float = 0.0
    gap: float = 0.0
    ratio: float = 0.0
    weight: float = 0.0
    kl: float = 0.0
    entropy: float = 0.0
    gap_max: float = 0.0

    def __add__(self, other: LossStats) -> LossStats:
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self) if f.name != "gap_max"}
        return LossStats(gap_max=max(self.gap_max, other.gap_max), **sums)

    def as_metrics(self) -> dict[str, float]:
        """Means over the tokens, under the names that `StepDone` carries."""
        n = max(self.tokens, 1.0)
        return {
            "loss": self.loss,
            "tokens": self.tokens,
            "entropy": self.entropy / n,
            "clip_fraction": self.clipped / n,
            "logprob_gap_mean": self.gap / n,
            "logprob_gap_max": self.gap_max,
            "importance_weight_mean": self.weight / n,
            "ratio_mean": self.ratio / n,
            "approx_kl": self.kl / n,
        }


def grpo_loss(
    current_logprobs: torch.Tensor,
    sampled_logprobs: torch.Tensor,
    proximal_logprobs: torch.Tensor | None,
    advantages: torch.Tensor,
    coefficients: torch.Tensor,
    mask: torch.Tensor,
    *,
    clip_low: float,
    clip_high: float,
    max_importance_weight: float,
) -> tuple[torch.Tensor, LossStats]:
    """``loss = - sum_i coefficient_i sum_t weight_it min(ratio_it A_i, clip(ratio_it) A_i)``, in at least fp32.

    Args:
        current_logprobs, sampled_logprobs, proximal_logprobs: [B, T], natural logarithms. No proximal means that the
            batch has just started: the current policy is the proximal one.
        advantages, coefficients: [B]. mask: [B, T], true on completion tokens; what padding holds does not matter.

    Returns:
        The scalar loss with a gradient to ``current_logprobs``, and the sums for the metrics (entropy not among them).
    """
    current = current_logprobs if current_logprobs.dtype == torch.float64 else current_logprobs.float()
    mask = mask.bool()
    proximal = current.detach() if proximal_logprobs is None else proximal_logprobs.detach().to(current.dtype)
    current = current.masked_fill(~mask, 0.0)
    proximal = proximal.masked_fill(~mask, 0.0)
    sampled = sampled_logprobs.detach().to(current.dtype).masked_fill(~mask, 0.0)

    gap = proximal - sampled
    weight = gap.exp().clamp(max=max_importance_weight)
    ratio = (current - proximal).exp()
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    advantage = advantages.to(current.dtype).unsqueeze(1)
    surrogate = torch.minimum(ratio * advantage, clipped * advantage)
    per_row = (weight * surrogate).masked_fill(~mask, 0.0).sum(dim=1)
    loss = -(coefficients.to(current.dtype) * per_row).sum()
    return loss, _stats(loss, gap, weight, ratio, clipped * advantage < ratio * advantage, mask)


@torch.no_grad()
def _stats(
    loss: torch.Tensor,
    gap: torch.Tensor,
    weight: torch.Tensor,
    ratio: torch.Tensor,
    clipped: torch.Tensor,
    mask: torch.Tensor,
) -> LossStats:
    ratio = ratio.detach()
    return LossStats(
        loss=loss.item(),
        tokens=mask.sum().item(),
        clipped=(clipped & mask).sum().item(),
        gap=gap.abs().sum().item(),  # zero on padding, where all three were filled with 0
        gap_max=gap.abs().max().item() if gap.numel() else 0.0,
        ratio=(ratio * mask).sum().item(),
        weight=(weight * mask).sum().item(),
        # Schulman's k3 estimator of KL(proximal || current), as the samples come (nearly) from the proximal policy.
        kl=((ratio - 1.0 - ratio.log()) * mask).sum().item(),
    )
