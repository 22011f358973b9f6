"""The GRPO family of objectives, with the three policies kept apart, and the estimates of a KL divergence.

Shapes: B completions of a micro-batch, T completion positions (padded), V vocabulary.
    sampled    log-probabilities that vLLM reported when it drew the token
    proximal   the learner's own, recomputed when the batch starts
    current    the learner's own, with a gradient
    reference  those of the policy that RL began with, when there is a KL term

The loss of one optimiser step, over completions i and their tokens t:

    loss = - sum_i c_i sum_t [ w_it min(rho_it A_i, clip(rho_it, 1 - clip_low, 1 + clip_high) A_i)
                               - beta kl_it + eta H_it ]

    A_i     advantage                                        `learner.advantages`
    c_i     weight of a token of completion i                `learner.aggregation`
    rho_it  ratio current / proximal per token: PPO (arXiv 1707.06347, eq. 7); apart low and high: DAPO (arXiv
            2503.14476), section 3.1. With ``grpo.ratio=sequence`` its geometric mean over the completion, the same for
            every token: GSPO (arXiv 2507.18071), eq. 5 to 7
    w_it    importance weight proximal / sampled, detached   `importance_weights`
    kl_it   estimate of KL(current || reference)             `kl_estimate`
    H_it    entropy of the next-token distribution

The paper (Fleming-R1, eq. 1) is ``-E[(1/k) sum_i log pi(y_i|x) A_i]``: sequence_sum, A = r - mean, no KL, no bonus. On
top of it stand PPO's clipped ratio, which is exactly 1 (and its gradient that of log pi) in the first optimiser step of
a batch, and the importance weight, which corrects for the engine that sampled being another program, of another
precision, than the one that learns. GSPO's own objective has ``aggregation=sequence_mean``; with ``sequence_sum`` the
first step of a batch has the paper's gradient again.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

from learner.config import GrpoConfig, ImportanceWeights, KlEstimator


@dataclass(frozen=True, kw_only=True)
class LossStats:
    """Sums over the completion tokens (``gap_max`` is a maximum); they add up over micro-batches and ranks."""

    loss: float = 0.0
    tokens: float = 0.0
    clipped: float = 0.0
    gap: float = 0.0
    ratio: float = 0.0
    weight: float = 0.0
    masked: float = 0.0
    kl: float = 0.0
    kl_reference: float = 0.0
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
            "masked_fraction": self.masked / n,
            "logprob_gap_mean": self.gap / n,
            "logprob_gap_max": self.gap_max,
            "importance_weight_mean": self.weight / n,
            "ratio_mean": self.ratio / n,
            "approx_kl": self.kl / n,
        }

    def reference_metrics(self) -> dict[str, float]:
        """What `as_metrics` leaves out, because without a KL term there is no reference to speak of."""
        return {"kl_reference": self.kl_reference / max(self.tokens, 1.0)}


def grpo_loss(
    current_logprobs: torch.Tensor,
    sampled_logprobs: torch.Tensor,
    proximal_logprobs: torch.Tensor | None,
    advantages: torch.Tensor,
    coefficients: torch.Tensor,
    mask: torch.Tensor,
    grpo: GrpoConfig,
    *,
    reference_logprobs: torch.Tensor | None = None,
    entropy: torch.Tensor | None = None,
) -> tuple[torch.Tensor, LossStats]:
    """This micro-batch's part of the loss at the head of the file, in at least fp32.

    Args:
        current_logprobs, sampled_logprobs, proximal_logprobs: [B, T], natural logarithms. No proximal means that the
            batch has just started: the current policy is the proximal one.
        advantages, coefficients: [B]. mask: [B, T], true on completion tokens; what padding holds does not matter.
        reference_logprobs: [B, T], needed when ``grpo.kl.coefficient`` is above 0.
        entropy: [B, T], with a gradient, needed when ``grpo.entropy_coefficient`` is above 0.

    Returns:
        The scalar loss with a gradient to ``current_logprobs`` (and ``entropy``), and the sums for the metrics.
    """
    dtype = current_logprobs.dtype if current_logprobs.dtype == torch.float64 else torch.float32
    mask = mask.bool()

    def tidy(values: torch.Tensor) -> torch.Tensor:
        return values.to(dtype).masked_fill(~mask, 0.0)

    current, sampled = tidy(current_logprobs), tidy(sampled_logprobs.detach())
    proximal = tidy(current_logprobs.detach() if proximal_logprobs is None else proximal_logprobs.detach())
    advantage = advantages.to(dtype).unsqueeze(1)
    gap = proximal - sampled
    weight = importance_weights(
        gap, mask, grpo.importance_weights, low=grpo.min_importance_weight, high=grpo.max_importance_weight
    )
    log_ratio = current - proximal
    ratio = (log_ratio if grpo.ratio == "token" else _sequence_mean(log_ratio, mask)).exp()
    clipped = ratio.clamp(1.0 - grpo.clip_low, 1.0 + grpo.clip_high)
    terms = weight * torch.minimum(ratio * advantage, clipped * advantage)
    stats = _stats(gap, weight, ratio, log_ratio, clipped * advantage < ratio * advantage, mask)
    if grpo.kl.coefficient:
        assert reference_logprobs is not None, "a KL term needs the reference's log-probabilities"
        kl = kl_estimate(current, tidy(reference_logprobs.detach()), grpo.kl.estimator)
        terms = terms - grpo.kl.coefficient * kl
        stats += LossStats(kl_reference=(kl.detach() * mask).sum().item())
    if grpo.entropy_coefficient:
        assert entropy is not None, "an entropy bonus needs the entropy"
        terms = terms + grpo.entropy_coefficient * tidy(entropy)
    loss = -(coefficients.to(dtype) * terms.masked_fill(~mask, 0.0).sum(dim=1)).sum()
    return loss, stats + LossStats(loss=loss.item())


def importance_weights(
    gap: torch.Tensor, mask: torch.Tensor, kind: ImportanceWeights, *, low: float, high: float
) -> torch.Tensor:
    """What corrects for sampling by another policy: ``w = proximal / sampled``, per token or per completion.

    ``token_truncate``     ``min(w_t, C)``: truncated importance sampling (Ionides 2008; for rollout engines: Yao et
                           al., "Your efficient RL framework secretly brings you off-policy RL training", 2025)
    ``token_mask``         ``w_t`` inside the band [low, high], 0 outside: IcePop (Ling team, arXiv 2510.18855)
    ``sequence_truncate``  the same two with the weight of the whole completion, ``w = prod_t w_t``, on each of its
    ``sequence_mask``      tokens: the exact weight, whose spread grows with length; masking it drops whole completions

    Args:
        gap: ``log(proximal / sampled)``, [B, T], 0 on padding. mask: [B, T].

    Returns:
        Weights [B, T] (or [B, 1] for a whole completion), without gradient.
    """
    level, action = kind.split("_")
    logs = gap.detach() if level == "token" else (gap.detach() * mask).sum(dim=1, keepdim=True)
    weight = logs.exp()
    if action == "truncate":
        return weight.clamp(max=high)
    return weight.masked_fill((weight < low) | (weight > high), 0.0)


def kl_estimate(current: torch.Tensor, reference: torch.Tensor, estimator: KlEstimator) -> torch.Tensor:
    """Per-token estimates of ``KL(current || reference)`` from tokens that the current policy drew, [B, T].

    With ``d = log(current / reference)`` (Schulman, "Approximating KL divergence", 2020):

    ``k1``  ``d``: unbiased value, large spread. Differentiated as it stands its gradient is zero in the mean, so the
            gradient here is ``d grad log current``, that of a penalty k1 in the reward, which is KL's own
    ``k2``  ``d^2 / 2``: biased value, small spread, and the same gradient, KL's own
    ``k3``  ``exp(-d) - 1 + d``: unbiased value, never negative (GRPO, DeepSeekMath, arXiv 2402.03300, eq. 4; TRL). Its
            gradient is in the mean that of ``KL(reference || current)``
    """
    difference = current - reference
    if estimator == "k3":
        return torch.exp(-difference) - 1.0 + difference
    square = 0.5 * difference.square()
    return square if estimator == "k2" else square + (difference - square).detach()


def _sequence_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over the completion tokens of each row, [B, T] -> [B, 1]; 0 for a row without any."""
    return (values * mask).sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)


@torch.no_grad()
def _stats(
    gap: torch.Tensor,
    weight: torch.Tensor,
    ratio: torch.Tensor,
    log_ratio: torch.Tensor,
    clipped: torch.Tensor,
    mask: torch.Tensor,
) -> LossStats:
    return LossStats(
        tokens=mask.sum().item(),
        clipped=(clipped & mask).sum().item(),
        masked=((weight == 0.0) & mask).sum().item(),
        gap=gap.abs().sum().item(),  # zero on padding, where all were filled with 0
        gap_max=gap.abs().max().item() if gap.numel() else 0.0,
        ratio=(ratio * mask).sum().item(),
        weight=(weight * mask).sum().item(),
        # Schulman's k3 estimator of KL(proximal || current), as the samples come (nearly) from the proximal policy.
        kl=((log_ratio.exp() - 1.0 - log_ratio) * mask).sum().item(),
    )
